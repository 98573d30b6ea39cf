// The memory of a view's tile lists. Only for the files that define `TileLists`.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "splats/raster.h"

namespace lumigraph {

constexpr int GROUP = 4;  // channels that the kernels blend in one pass

constexpr size_t HUGE_PAGE = 2 << 20;  // bytes

// An array that keeps its memory when it shrinks and is not cleared when it grows.
template <typename T>
class Buffer {
  public:
    T *resize(size_t count) {
        if (count > capacity_) {
            std::free(data_);
            capacity_ = count + count / 4;
            const size_t wanted = capacity_ * sizeof(T), page = wanted < HUGE_PAGE ? 64 : HUGE_PAGE;
            const size_t bytes = (wanted + page - 1) / page * page;
            data_ = static_cast<T *>(std::aligned_alloc(page, bytes));
            if (!data_) {
                capacity_ = 0;
                throw std::bad_alloc();
            }
#if defined(MADV_HUGEPAGE)
            // Records and slots are visited in the order of tiles: with small pages every visit
            // would miss the TLB. This is a hint; nothing depends on it.
            if (page == HUGE_PAGE) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
        }
        return data_;
    }
    T *data() { return data_; }
    Buffer() = default;
    ~Buffer() { std::free(data_); }
    Buffer(Buffer &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer &operator=(Buffer &&) = delete;

  private:
    T *data_ = nullptr;
    size_t capacity_ = 0;
};

struct Chunk {
    int count;       // records, of CHUNK places
    uint32_t slots;  // the first of the chunk's slots
    int64_t first;   // the row of its first record
    Cells cells{};

    Chunk() {
        cells.reserve = [](Cells &c, uint32_t capacity) {
            void *data = std::realloc(c.data, capacity * sizeof(Cell));
            if (!data) throw std::bad_alloc();
            c.data = static_cast<Cell *>(data);
            c.capacity = capacity;
        };
    }
    ~Chunk() { std::free(cells.data); }
    Chunk(Chunk &&other) noexcept
        : count(other.count), slots(other.slots), first(other.first), cells(other.cells) {
        other.cells.data = nullptr;
    }
    Chunk &operator=(Chunk &&) = delete;
};

// The memory of one thread's `Tape`.
struct TapeMemory {
    Buffer<uint32_t> entries;
    Buffer<float> alphas, fronts, behind, shares;
};

struct Workspace {
    std::vector<Chunk> chunks;
    Buffer<Record> record;
    Buffer<uint32_t> depths, begin, counts, used;
    Buffer<int32_t> scratch;
    Buffer<Entry> entries, spares;
    Buffer<float> slots, colors;
    Buffer<int32_t> places;         // rows of records
    std::vector<TapeMemory> tapes;  // one for each thread
};

// Memory for the time of one product; one is kept for the next, of any view.
struct Scratch {
    Buffer<float> slots;
    Buffer<Tangent> tangents;
    Buffer<Turn> turns;
};

class Borrowed {
  public:
    Borrowed();
    ~Borrowed();
    Borrowed(const Borrowed &) = delete;
    Borrowed &operator=(const Borrowed &) = delete;
    Scratch *operator->() { return scratch_.get(); }

  private:
    std::unique_ptr<Scratch> scratch_;
};

}  // namespace lumigraph
