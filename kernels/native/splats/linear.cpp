// Products with the derivative of a picture, on the tile lists of its view.
#include "splats/workspace.h"

namespace lumigraph {

void TileLists::jvp(const Scene &scene, const float *const *direction, const float *background,
                    float *image) {
    use_colors();
    Borrowed scratch;
    Tangent *tangents = scratch->tangents.resize(chunks_ * CHUNK);
    for_each_chunk([&](int64_t n) {
        kernels().tangents(scene, direction, tiles_.record + n * CHUNK, work_->chunks[n].count,
                           tangents + n * CHUNK);
    });
    kernels().blend_tangents({&tiles_, tangents, background, image});
}

void TileLists::blocks(const Scene &scene, const float *image, const float *weights,
                       const BlockRows &out) {
    use_colors();
    Borrowed scratch;
    const bool mixed = scene.degree > 0;
    const int numbers = mixed ? ALL_PRODUCTS : PLAIN_PRODUCTS;
    float *slots = scratch->slots.resize(entries_ * numbers);
    Turn *turns = mixed ? scratch->turns.resize(chunks_ * CHUNK) : nullptr;
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

// Counts the memory in use, not the capacity of pooled memory: the number depends neither on the
// views that came before nor on the number of threads.
int64_t TileLists::bytes() const {
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    const int64_t a_splat = sizeof(Record) + sizeof(uint32_t) + (has_places_ ? 4 : 0);
    return splats_ * a_splat + entries_ * int64_t(sizeof(Entry) + sizeof(Cell)) +
           chunks_ * int64_t(sizeof(Chunk)) + tiles * 2 * int64_t(sizeof(uint32_t));
}

}  // namespace lumigraph
