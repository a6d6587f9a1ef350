// AVX-512 with VBMI: one permutation gathers bytes from anywhere in a register, then they are shifted or tested.
#include "cpu.h"
#include "cpu_sum.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))

namespace elm::cpu {
namespace {

// --- pack: 64 bits, the first of each 8 values most significant ------------------------------------------------------

AVX512 uint64_t positive_64(const Byte* values) {
  const __m512i reversed_in_8 = _mm512_set4_epi32(0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
  const __m512i bytes = _mm512_shuffle_epi8(_mm512_loadu_si512(values), reversed_in_8);
  return _mm512_test_epi8_mask(bytes, bytes);
}

AVX512 uint64_t positive_64(const float* values) {
  const __m512i reversed_in_8 = _mm512_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  uint64_t bits = 0;
  for (int part = 0; part < 4; part++) {
    const __m512 floats = _mm512_permutexvar_ps(reversed_in_8, _mm512_loadu_ps(values + 16 * part));
    bits |= uint64_t{_mm512_cmp_ps_mask(floats, _mm512_setzero_ps(), _CMP_GT_OQ)} << 16 * part;
  }
  return bits;
}

AVX512 uint64_t positive_64(const BFloat16* values) {  // as integers: above +0, and not above +infinity
  const __m512i reversed_in_8 = _mm512_set4_epi32(0x01000302, 0x05040706, 0x09080b0a, 0x0d0c0f0e);
  uint64_t bits = 0;
  for (int part = 0; part < 2; part++) {
    const __m512i words = _mm512_shuffle_epi8(_mm512_loadu_si512(values + 32 * part), reversed_in_8);
    const __mmask32 above_zero = _mm512_cmpgt_epi16_mask(words, _mm512_setzero_si512());
    const __mmask32 finite = _mm512_cmple_epi16_mask(words, _mm512_set1_epi16(0x7f80));
    bits |= uint64_t{above_zero & finite} << 32 * part;
  }
  return bits;
}

// --- unpack: 16 fields in lanes of 32 bits ---------------------------------------------------------------------------

AVX512 void store_16(__m512i fields, int64_t* ids) {
  _mm512_storeu_si512(ids, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(fields)));
  _mm512_storeu_si512(ids + 8, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(fields, 1)));
}
AVX512 void store_16(__m512i fields, int32_t* ids) { _mm512_storeu_si512(ids, fields); }
AVX512 void store_16(__m512i fields, int16_t* ids) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm512_cvtepi32_epi16(fields));
}
AVX512 void store_16(__m512i fields, Byte* ids) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(ids), _mm512_cvtepi32_epi8(fields));
}

// --- spread: 8 ids in lanes of 64 bits -------------------------------------------------------------------------------

AVX512 __m512i load_8(const Byte* ids) {
  return _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(ids)));
}
AVX512 __m512i load_8(const int16_t* ids) {
  return _mm512_cvtepi16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ids)));
}
AVX512 __m512i load_8(const int32_t* ids) {
  return _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids)));
}
AVX512 __m512i load_8(const int64_t* ids) { return _mm512_loadu_si512(ids); }

/// Spread 8 ids at a time, in pieces of 64 bits, and return how many were. The last piece spills over into the bits of
/// the next ids, which overwrite it.
template <int kPieces, class Id>
AVX512 int64_t spread_pieces(const Id* ids, int64_t count, int width, Byte* bits) {
  alignas(64) Byte source[64 * kPieces], bit[64 * kPieces];
  for (int i = 0; i < 64 * kPieces; i++) {
    const int place = width - 1 - i % width;
    source[i] = i / width * 8 + place / 8;
    bit[i] = 1 << place % 8;
  }
  __m512i order[kPieces], mask[kPieces];
  for (int piece = 0; piece < kPieces; piece++) {
    order[piece] = _mm512_load_si512(source + 64 * piece);
    mask[piece] = _mm512_load_si512(bit + 64 * piece);
  }
  int64_t done = 0;
  for (; (count - done) * width >= 64 * kPieces; done += 8) {
    const __m512i eight = load_8(ids + done);
    for (int piece = 0; piece < kPieces; piece++) {
      const __mmask64 set = _mm512_test_epi8_mask(_mm512_permutexvar_epi8(order[piece], eight), mask[piece]);
      _mm512_storeu_si512(bits + done * width + 64 * piece, _mm512_maskz_set1_epi8(set, 1));
    }
  }
  return done;
}

}  // namespace

template <class Value>
AVX512 void Avx512::pack(const Value* values, int64_t count, Byte* packed) {
  for (; count >= 64; count -= 64, values += 64, packed += 8) {
    const uint64_t bits = positive_64(values);
    memcpy(packed, &bits, 8);
  }
  Scalar::pack(values, count, packed);
}

template <class Id>
AVX512 void Avx512::unpack(const Byte* packed, int64_t count, int width, Id* ids) {
  if (width <= 25 || width == 32) {  // a field and the bits before it in its byte fit a lane
    alignas(64) Byte source[64];
    alignas(64) int32_t shift[16];
    for (int field = 0; field < 16; field++) {
      const int bit = field * width;
      for (int byte = 0; byte < 4; byte++) source[4 * field + byte] = bit / 8 + 3 - byte;
      shift[field] = 32 - width - bit % 8;
    }
    const __m512i order = _mm512_load_si512(source), shifts = _mm512_load_si512(shift);
    const __m512i mask = _mm512_set1_epi32(~uint32_t{0} >> (32 - width));
    const __mmask64 own_bytes = ~uint64_t{0} >> (64 - 2 * width);  // 16 fields are 2 * width bytes
    for (; count >= 16; count -= 16, packed += 2 * width, ids += 16) {
      const __m512i bytes = _mm512_maskz_loadu_epi8(own_bytes, packed);
      const __m512i fields = _mm512_srlv_epi32(_mm512_permutexvar_epi8(order, bytes), shifts);
      store_16(_mm512_and_si512(fields, mask), ids);
    }
  }
  Scalar::unpack(packed, count, width, ids);
}

template <class Id>
AVX512 void Avx512::spread(const Id* ids, int64_t count, int width, Byte* bits) {
  int64_t done = 0;
  if (width <= 8) done = spread_pieces<1>(ids, count, width, bits);
  if (width > 8 && width <= 16) done = spread_pieces<2>(ids, count, width, bits);
  Avx2::spread(ids + done, count - done, width, bits + done * width);
}

template <class Value>
AVX512 void Avx512::sum(const Value* const* rows, const Value* const* next, int row_count, int64_t channels,
                        Value* out) {
  sum_in_vectors(rows, next, row_count, channels, out);
}

ELM_INSTANTIATE_LEVEL(Avx512)

}  // namespace elm::cpu
#endif
