// Products with the derivative of a picture, on the tile lists of its view.
#include <mutex>

#include "splats/workspace.h"

namespace lumigraph {
namespace {

// What a product needs while it is found; one is kept for the next, of whatever
// view.
struct Scratch {
    Buffer<float> slots;
    Buffer<Tangent> tangents;
    Buffer<Turn> turns;
};
std::mutex spare_mutex;
std::unique_ptr<Scratch> spare;

class Borrowed {
  public:
    Borrowed() {
        const std::lock_guard lock(spare_mutex);
        scratch_ = spare ? std::move(spare) : std::make_unique<Scratch>();
    }
    ~Borrowed() {
        const std::lock_guard lock(spare_mutex);
        spare = std::move(scratch_);
    }
    Borrowed(const Borrowed &) = delete;
    Borrowed &operator=(const Borrowed &) = delete;
    Scratch *operator->() { return scratch_.get(); }

  private:
    std::unique_ptr<Scratch> scratch_;
};

}  // namespace

void TileLists::jvp(const Scene &scene, const float *const *direction, const float *background,
                    float *image) {
    Borrowed scratch;
    Tangent *tangents = scratch->tangents.resize(splats_);
    for_each_chunk([&](int64_t n) {
        kernels().tangents(scene, direction, tiles_.record + n * CHUNK, work_->chunks[n].count,
                           tangents + n * CHUNK);
    });
    kernels().blend_tangents({&tiles_, tangents, background, image});
}

void TileLists::vjp(const Scene &scene, const float *image, const float *weights,
                    float *const *out) {
    Borrowed scratch;
    float *slots = scratch->slots.resize(entries_ * SLOT);
    kernels().blend_backward({&tiles_, 3, 3, 0, image, nullptr, weights, nullptr, slots, false});
    for_each_chunk([&](int64_t n) {
        const Chunk &chunk = work_->chunks[n];
        kernels().add_gradient(scene, tiles_.record + n * CHUNK, chunk.count,
                               slots + int64_t(chunk.slots) * SLOT, out);
    });
}

void TileLists::blocks(const Scene &scene, const float *image, const float *weights,
                       const BlockRows &out) {
    Borrowed scratch;
    const bool mixed = scene.harmonics.degree > 0;
    const int numbers = mixed ? ALL_PRODUCTS : PLAIN_PRODUCTS;
    float *slots = scratch->slots.resize(entries_ * numbers);
    Turn *turns = mixed ? scratch->turns.resize(splats_) : nullptr;
    if (mixed)
        for_each_chunk([&](int64_t n) {
            kernels().turns(scene, tiles_.record + n * CHUNK, work_->chunks[n].count,
                            turns + n * CHUNK);
        });
    kernels().curvature({&tiles_, image, weights, turns, slots});
    for_each_chunk([&](int64_t n) {
        const Chunk &chunk = work_->chunks[n];
        kernels().add_blocks(scene, tiles_.record + n * CHUNK, mixed ? turns + n * CHUNK : nullptr,
                             chunk.count, slots + int64_t(chunk.slots) * numbers, out);
    });
}

int64_t TileLists::bytes() const {
    const Workspace &w = *work_;
    int64_t sum = w.record.bytes() + w.depths.bytes() + w.begin.bytes() + w.counts.bytes() +
                  w.used.bytes() + w.scratch.bytes() + w.entries.bytes() + w.spares.bytes() +
                  w.slots.bytes() + w.image.bytes() + w.transmittance.bytes() + w.gradient.bytes();
    for (const Chunk &chunk : w.chunks)
        sum += int64_t(sizeof chunk) + int64_t(chunk.cells.capacity * sizeof(Cell));
    for (const TapeMemory &t : w.tapes)
        sum += t.entries.bytes() + t.alphas.bytes() + t.fronts.bytes() + t.behind.bytes() +
               t.shares.bytes();
    return sum;
}

}  // namespace lumigraph
