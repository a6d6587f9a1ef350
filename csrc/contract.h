// What the CPU sources, the CUDA sources and the fall-back in Python (elm_dist/codes/fallback.py) agree on.
//
// The bits of an image are one big-endian stream, as `np.packbits` writes it: field f is the bits [f * width,
// (f + 1) * width), the most significant first. Every row (image) starts on a byte, and its last byte is filled up with
// zeros. Hence the invariant behind every fast path: 8 fields are `width` whole bytes.
//
// An operation is a job: a plain struct of pointers and sizes, read by `cpu.cpp` and `cuda.cu` alike. Its rows are cut
// into tiles, and no two tiles write the same byte, so tiles may run in any order and at the same time.
// Knows nothing of torch.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ELM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ELM_HOST_DEVICE [[gnu::always_inline]] inline
#endif

namespace elm {

constexpr int kMaxSubtokens = 64;  // per code, as a code has at most 64 bits

using Byte = uint8_t;

struct BFloat16 {
  uint16_t bits;
};

// --- Jobs ------------------------------------------------------------------------------------------------------------

/// values (rows, bits) -> packed (rows, ceil(bits / 8)). A bit is set where its value is positive: 0/1 and -/+ alike.
/// With `samples` (rows,), a value is the probability of its bit, and the bit is drawn for (seed, sample, its index).
template <class Value>
struct PackBits {
  const Value* values;
  const int64_t* samples;  // or null
  uint64_t seed;
  Byte* packed;
  int64_t rows, bits;
};

/// packed (rows, row_bytes) -> ids (rows, fields), the first of each row. An Id as wide as a field may turn negative.
template <class Id>
struct UnpackSubtokens {
  const Byte* packed;
  Id* ids;
  int64_t rows, fields, row_bytes;
  int width;
};

/// ids (fields,) -> bits (fields * width,), one byte each, the most significant bit of an id first.
template <class Id>
struct SubtokensToBits {
  const Id* ids;
  Byte* bits;
  int64_t fields;
  int width;
};

/// packed (rows, row_bytes) -> out (rows, positions, channels), the sum of the sub-tokens' rows of their tables, or
/// (rows, positions, subtokens * channels), these rows side by side. Where `masked` (rows, positions) is set, every
/// sub-token is the mask token, 2^width. Sums are in fp32, sub-token 0 first, and rounded once.
template <class Value>
struct EmbedPacked {
  const Byte* packed;
  const Byte* masked;                  // or null
  const Value* tables[kMaxSubtokens];  // each (2^width or more, channels)
  Value* out;
  int64_t rows, positions, row_bytes, channels;
  int subtokens, width;
  bool concat;
};

/// Every job that a kernel is compiled for.
#define ELM_FOR_EACH_JOB(DO)    \
  DO(PackBits<Byte>)            \
  DO(PackBits<float>)           \
  DO(PackBits<BFloat16>)        \
  DO(UnpackSubtokens<Byte>)     \
  DO(UnpackSubtokens<int16_t>)  \
  DO(UnpackSubtokens<int32_t>)  \
  DO(UnpackSubtokens<int64_t>)  \
  DO(SubtokensToBits<Byte>)     \
  DO(SubtokensToBits<int16_t>)  \
  DO(SubtokensToBits<int32_t>)  \
  DO(SubtokensToBits<int64_t>)  \
  DO(EmbedPacked<float>)        \
  DO(EmbedPacked<BFloat16>)

// --- Geometry --------------------------------------------------------------------------------------------------------

ELM_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
ELM_HOST_DEVICE constexpr int64_t bytes_of(int64_t bits) { return ceil_div(bits, 8); }

/// A part of one row: items [first, first + size).
struct Tile {
  int64_t row, first, size;
};

/// `rows` rows of `length` items, each cut into tiles of `size`. A CUDA thread takes one tile, a CPU thread a range.
struct Tiles {
  int64_t length, size, per_row, count;

  Tiles(int64_t rows, int64_t length, int64_t size)
      : length(length), size(size), per_row(ceil_div(length, size)), count(rows * per_row) {}

  ELM_HOST_DEVICE Tile operator[](int64_t index) const {
    const int64_t row = index / per_row, first = (index - row * per_row) * size;
    return {row, first, length - first < size ? length - first : size};
  }
};

// --- Fields ----------------------------------------------------------------------------------------------------------

/// Reads fields one after the other, and no byte but theirs. The definition that every faster way must agree with.
struct FieldReader {
  const Byte* byte;
  int skip;  // bits of it that lie before the next field

  ELM_HOST_DEVICE FieldReader(const Byte* row, int64_t bit) : byte(row + bit / 8), skip(bit % 8) {}

  ELM_HOST_DEVICE uint64_t next(int width) {
    uint64_t field = 0;
    for (int left = width; left > 0;) {
      const int take = left < 8 - skip ? left : 8 - skip;
      field = field << take | static_cast<Byte>(*byte << skip) >> (8 - take);
      left -= take;
      byte += (skip + take) / 8;
      skip = (skip + take) % 8;
    }
    return field;
  }
};

/// The embedding of a sub-token whose id is `id` where its position is not masked.
template <class Value>
ELM_HOST_DEVICE const Value* embedding_of(const EmbedPacked<Value>& job, int64_t row, int64_t position, int subtoken,
                                          uint64_t id) {
  const bool is_masked = job.masked != nullptr && job.masked[row * job.positions + position];
  return job.tables[subtoken] + (is_masked ? uint64_t{1} << job.width : id) * job.channels;
}

// --- Values ----------------------------------------------------------------------------------------------------------

ELM_HOST_DEVICE float to_float(float value) { return value; }
ELM_HOST_DEVICE float to_float(BFloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

ELM_HOST_DEVICE void from_float(float value, float& result) { result = value; }
ELM_HOST_DEVICE void from_float(float value, BFloat16& result) {  // to nearest, ties to even; every NaN is torch's
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  result.bits = value == value ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

ELM_HOST_DEVICE bool is_positive(Byte value) { return value != 0; }
ELM_HOST_DEVICE bool is_positive(float value) { return value > 0; }
ELM_HOST_DEVICE bool is_positive(BFloat16 value) { return to_float(value) > 0; }

// --- Draws -----------------------------------------------------------------------------------------------------------

/// Four random words for a counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
struct Philox {
  uint32_t word[4];

  ELM_HOST_DEVICE Philox(uint64_t key, uint64_t low, uint64_t high) {
    uint32_t a = low, b = low >> 32, c = high, d = high >> 32, k0 = key, k1 = key >> 32;
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
      const uint64_t p = uint64_t{0xD2511F53} * a, q = uint64_t{0xCD9E8D57} * c;
      a = static_cast<uint32_t>(q >> 32) ^ b ^ k0;
      b = static_cast<uint32_t>(q);
      c = static_cast<uint32_t>(p >> 32) ^ d ^ k1;
      d = static_cast<uint32_t>(p);
    }
    word[0] = a, word[1] = b, word[2] = c, word[3] = d;
  }
};

/// Whether a draw of 24 random bits, as a number in [0, 1), lies below the probability: never at 0, always at 1.
ELM_HOST_DEVICE bool is_drawn(uint32_t word, float probability) { return (word >> 8) * 0x1p-24f < probability; }
ELM_HOST_DEVICE bool is_drawn(uint32_t word, BFloat16 probability) { return is_drawn(word, to_float(probability)); }
ELM_HOST_DEVICE bool is_drawn(uint32_t word, Byte probability) {  // in 255ths
  return uint64_t{word >> 8} * 255 < uint64_t{probability} << 24;
}

/// The byte of `count` <= 8 values, the first of which is bit `first`, a multiple of 8, of a row. What draws bit i of a
/// sample is word i % 4 of Philox(seed, i / 4, sample).
template <class Value>
ELM_HOST_DEVICE Byte pack_byte(const PackBits<Value>& job, const Value* values, int count, int64_t row, int64_t first) {
  unsigned byte = 0;
  if (job.samples == nullptr) {
    for (int i = 0; i < 8; i++)
      if (i < count) byte |= is_positive(values[i]) << (7 - i);
  } else {
    const uint64_t group = first / 4, sample = job.samples[row];
    const Philox random[2] = {{job.seed, group, sample}, {job.seed, group + 1, sample}};
    for (int i = 0; i < 8; i++)
      if (i < count) byte |= is_drawn(random[i / 4].word[i % 4], values[i]) << (7 - i);
  }
  return byte;
}

}  // namespace elm
