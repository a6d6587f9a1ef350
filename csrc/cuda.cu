// One thread, one tile: 16 bytes of output, or 16 values to pack. Threads share nothing and never wait for each other,
// so the order in which they run cannot matter. Memory moves 16 bytes at a time where the address allows it: a view
// such as `packed[1:]` is contiguous and yet starts anywhere, and so do rows of odd length.
#include "cuda.h"

namespace elm::cuda {
namespace {

constexpr int kThreads = 256;  // per block

// --- 16-byte moves ---------------------------------------------------------------------------------------------------

/// Values that a thread holds in registers, a multiple of 16 bytes.
template <class Value, int kCount = 16 / sizeof(Value)>
struct Held {
  static constexpr int kVectors = kCount * sizeof(Value) / 16;
  Value value[kCount];
};

__device__ bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

template <class Value, int kCount>
__device__ void load(const Value* from, int64_t count, Held<Value, kCount>& held) {
  if (count == kCount && is_aligned(from)) {
    uint4 vectors[held.kVectors];
    for (int i = 0; i < held.kVectors; i++) vectors[i] = reinterpret_cast<const uint4*>(from)[i];
    memcpy(held.value, vectors, sizeof vectors);
  } else {
    for (int i = 0; i < kCount; i++) held.value[i] = i < count ? from[i] : Value{};
  }
}

template <class Value, int kCount>
__device__ void store(const Held<Value, kCount>& held, int64_t count, Value* to) {
  if (count == kCount && is_aligned(to)) {
    uint4 vectors[held.kVectors];
    memcpy(vectors, held.value, sizeof vectors);
    for (int i = 0; i < held.kVectors; i++) reinterpret_cast<uint4*>(to)[i] = vectors[i];
  } else {
    for (int i = 0; i < kCount; i++)
      if (i < count) to[i] = held.value[i];
  }
}

// --- One tile --------------------------------------------------------------------------------------------------------

template <class Value>
Tiles tiles_of(const PackBits<Value>& job) {
  return {job.rows, job.bits, 16};
}
template <class Value>
__device__ void run_tile(const PackBits<Value>& job, Tile tile) {
  Held<Value, 16> values;
  load(job.values + tile.row * job.bits + tile.first, tile.size, values);
  Byte* packed = job.packed + tile.row * bytes_of(job.bits) + tile.first / 8;
  packed[0] = pack_byte(job, values.value, tile.size, tile.row, tile.first);
  if (tile.size > 8) packed[1] = pack_byte(job, values.value + 8, tile.size - 8, tile.row, tile.first + 8);
}

template <class Id>
Tiles tiles_of(const UnpackSubtokens<Id>& job) {
  return {job.rows, job.fields, 16 / sizeof(Id)};
}
template <class Id>
__device__ void run_tile(const UnpackSubtokens<Id>& job, Tile tile) {
  FieldReader fields(job.packed + tile.row * job.row_bytes, tile.first * job.width);
  Held<Id> ids;
  for (int i = 0; i < 16 / sizeof(Id); i++)
    if (i < tile.size) ids.value[i] = static_cast<Id>(fields.next(job.width));
  store(ids, tile.size, job.ids + tile.row * job.fields + tile.first);
}

template <class Id>
Tiles tiles_of(const SubtokensToBits<Id>& job) {
  return {1, job.fields * job.width, 16};
}
template <class Id>
__device__ void run_tile(const SubtokensToBits<Id>& job, Tile tile) {
  int64_t field = tile.first / job.width;
  int shift = job.width - 1 - static_cast<int>(tile.first - field * job.width);
  Held<Byte> bits;
  for (int i = 0; i < 16; i++)
    if (i < tile.size) {
      bits.value[i] = static_cast<uint64_t>(job.ids[field]) >> shift & 1;
      if (shift-- == 0) shift = job.width - 1, field++;
    }
  store(bits, tile.size, job.bits + tile.first);
}

template <class Value>
Tiles tiles_of(const EmbedPacked<Value>& job) {  // a row of tiles is one embedding of the output
  return {job.rows * job.positions * (job.concat ? job.subtokens : 1), job.channels, 16 / sizeof(Value)};
}
template <class Value>
__device__ const Value* find(const EmbedPacked<Value>& job, int64_t row, int64_t position, int subtoken) {
  FieldReader fields(job.packed + row * job.row_bytes, (position * job.subtokens + subtoken) * job.width);
  return embedding_of(job, row, position, subtoken, fields.next(job.width));
}
template <class Value>
__device__ void run_tile(const EmbedPacked<Value>& job, Tile tile) {
  const int64_t code = job.concat ? tile.row / job.subtokens : tile.row;
  const int64_t row = code / job.positions, position = code - row * job.positions;
  Held<Value> values;
  if (job.concat) {
    const int subtoken = static_cast<int>(tile.row - code * job.subtokens);
    load(find(job, row, position, subtoken) + tile.first, tile.size, values);
  } else {
    float total[16 / sizeof(Value)] = {};
    for (int subtoken = 0; subtoken < job.subtokens; subtoken++) {
      load(find(job, row, position, subtoken) + tile.first, tile.size, values);
      for (int i = 0; i < 16 / sizeof(Value); i++) total[i] += to_float(values.value[i]);
    }
    for (int i = 0; i < 16 / sizeof(Value); i++) from_float(total[i], values.value[i]);
  }
  store(values, tile.size, job.out + tile.row * job.channels + tile.first);
}

// --- All tiles -------------------------------------------------------------------------------------------------------

template <class Job>
__global__ void __launch_bounds__(kThreads)
    kernel(const __grid_constant__ Job job, const __grid_constant__ Tiles tiles) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index < tiles.count) run_tile(job, tiles[index]);
}

}  // namespace

template <class Job>
cudaError_t launch(const Job& job, cudaStream_t stream) {
  const Tiles tiles = tiles_of(job);
  const int64_t blocks = ceil_div(tiles.count, kThreads);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel<Job>, job, tiles);
}

#define ELM_INSTANTIATE_JOB(Job) template cudaError_t launch(const Job&, cudaStream_t);
ELM_FOR_EACH_JOB(ELM_INSTANTIATE_JOB)

}  // namespace elm::cuda
