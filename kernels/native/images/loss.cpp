// The loss of an image from its sums over blocks.
#include <vector>

#include "images/images.h"

namespace lumigraph {

double loss_of(Loss loss) {
    std::vector<double> sums(loss.blocks());
    loss.block_sums = sums.data();
    image_kernels().loss(loss);

    // In the order of the blocks, so that the sum does not depend on the number of threads.
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum / (double(loss.pixels) * loss.channels);
}

}  // namespace lumigraph
