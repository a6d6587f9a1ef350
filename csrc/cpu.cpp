// Chooses the twin, and walks over the tiles of a job.
#include "cpu.h"

namespace elm::cpu {

Level best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return Level::avx512;
  if (__builtin_cpu_supports("avx2")) return Level::avx2;
#endif
  return Level::scalar;
}

namespace {

// --- Tiles: whole bytes of a row, large enough to pay for a thread's visit, small enough to share out ----------------

constexpr int kPositions = 16;  // of a tile of embeddings

template <class Value>
Tiles tiles_of(const PackBits<Value>& job) {
  return {job.rows, job.bits, 1 << 15};
}
template <class Id>
Tiles tiles_of(const UnpackSubtokens<Id>& job) {
  return {job.rows, job.fields, 1 << 13};
}
template <class Id>
Tiles tiles_of(const SubtokensToBits<Id>& job) {
  return {1, job.fields, 1 << 12};
}
template <class Value>
Tiles tiles_of(const EmbedPacked<Value>& job) {
  return {job.rows, job.positions, kPositions};
}

// --- One tile --------------------------------------------------------------------------------------------------------

template <class Simd, class Value>
void run_tile(const PackBits<Value>& job, Tile tile) {
  const Value* values = job.values + tile.row * job.bits + tile.first;
  Byte* packed = job.packed + tile.row * bytes_of(job.bits) + tile.first / 8;
  if (job.samples == nullptr) return Simd::pack(values, tile.size, packed);
  for (int64_t i = 0; i < tile.size; i += 8) {
    const int count = tile.size - i < 8 ? tile.size - i : 8;
    packed[i / 8] = pack_byte(job, values + i, count, tile.row, tile.first + i);
  }
}

template <class Simd, class Id>
void run_tile(const UnpackSubtokens<Id>& job, Tile tile) {
  const Byte* packed = job.packed + tile.row * job.row_bytes + tile.first * job.width / 8;
  Simd::unpack(packed, tile.size, job.width, job.ids + tile.row * job.fields + tile.first);
}

template <class Simd, class Id>
void run_tile(const SubtokensToBits<Id>& job, Tile tile) {
  Simd::spread(job.ids + tile.first, tile.size, job.width, job.bits + tile.first * job.width);
}

template <class Simd, class Value>
void run_tile(const EmbedPacked<Value>& job, Tile tile) {
  int64_t ids[kPositions * kMaxSubtokens];
  const Value* rows[kPositions * kMaxSubtokens];
  const int64_t count = tile.size * job.subtokens, start = tile.first * job.subtokens * job.width / 8;
  Scalar::unpack(job.packed + tile.row * job.row_bytes + start, count, job.width, ids);
  for (int64_t i = 0; i < count; i++)
    rows[i] = embedding_of(job, tile.row, tile.first + i / job.subtokens, i % job.subtokens, ids[i]);

  const int64_t first = tile.row * job.positions + tile.first;  // position in the output
  if (job.concat) {
    Value* out = job.out + first * job.subtokens * job.channels;
    for (int64_t i = 0; i < count; i++) memcpy(out + i * job.channels, rows[i], job.channels * sizeof(Value));
  } else {
    Value* out = job.out + first * job.channels;
    for (int64_t i = 0; i < count; i += job.subtokens, out += job.channels) {
      const int64_t next = i + job.subtokens < count ? i + job.subtokens : i;
      Simd::sum(rows + i, rows + next, job.subtokens, job.channels, out);
    }
  }
}

// --- A range of tiles ------------------------------------------------------------------------------------------------

template <class Simd, class Job>
void run_tiles(const Job& job, int64_t begin, int64_t end) {
  const Tiles tiles = tiles_of(job);
  for (int64_t index = begin; index < end; index++) run_tile<Simd>(job, tiles[index]);
}

}  // namespace

template <class Job>
int64_t count_tiles(const Job& job) {
  return tiles_of(job).count;
}

template <class Job>
void run(const Job& job, Level level, int64_t begin, int64_t end) {
  switch (level) {
#if defined(__x86_64__)
    case Level::avx512:
      return run_tiles<Avx512>(job, begin, end);
    case Level::avx2:
      return run_tiles<Avx2>(job, begin, end);
#endif
    default:
      return run_tiles<Scalar>(job, begin, end);
  }
}

#define ELM_INSTANTIATE_JOB(Job)             \
  template int64_t count_tiles(const Job&);  \
  template void run(const Job&, Level, int64_t, int64_t);
ELM_FOR_EACH_JOB(ELM_INSTANTIATE_JOB)

}  // namespace elm::cpu
