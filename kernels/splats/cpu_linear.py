"""The old face of products with the derivative of a picture."""

from dataclasses import dataclass

from lumigraph.kernels.splats import cpu_backend as new


@dataclass(frozen=True)
class Products:
    """A `Linearization` in C++."""

    picture: new.CpuPicture

    @property
    def color(self):
        """See `Linearization.color`."""
        return self.picture.features

    @property
    def bytes(self):
        """See `Linearization.bytes`."""
        return self.picture.bytes

    def jvp(self, direction):
        """See `Linearization.jvp`."""
        return self.picture.jvp(direction)

    def vjp(self, weights, out=None):
        """See `Linearization.vjp`."""
        return new.gradients(self.picture.records.splats, self.picture.vjp(weights), out)

    def blocks(self, weights, out=None):
        """See `Linearization.blocks`."""
        return self.picture.blocks(weights, out)
