// AVX2: bytes are gathered by a shuffle within each half of a register, then shifted or masked into place.
#include "cpu.h"
#include "cpu_sum.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

namespace elm::cpu {
namespace {

// --- pack: one bit per value, the first of each 8 most significant ---------------------------------------------------

AVX2 __m128i reversed_in_8(__m128i bytes) {
  return _mm_shuffle_epi8(bytes, _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8));
}

AVX2 uint16_t positive_16(const Byte* values) {
  const __m128i bytes = reversed_in_8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  return ~_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
}

AVX2 uint16_t positive_16(const float* values) {
  const __m256i reversed = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  unsigned bits = 0;
  for (int half = 0; half < 2; half++) {
    const __m256 positive = _mm256_cmp_ps(_mm256_loadu_ps(values + 8 * half), _mm256_setzero_ps(), _CMP_GT_OQ);
    bits |= _mm256_movemask_ps(_mm256_permutevar8x32_ps(positive, reversed)) << 8 * half;
  }
  return bits;
}

AVX2 uint16_t positive_16(const BFloat16* values) {  // as integers: above +0, and not above +infinity
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  const __m256i above_zero = _mm256_cmpgt_epi16(words, _mm256_setzero_si256());
  const __m256i positive = _mm256_andnot_si256(_mm256_cmpgt_epi16(words, _mm256_set1_epi16(0x7f80)), above_zero);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(positive), _mm256_extracti128_si256(positive, 1));
  return _mm_movemask_epi8(reversed_in_8(bytes));
}

// --- unpack: 8 fields in lanes of 32 bits ----------------------------------------------------------------------------

AVX2 void store_8(__m256i fields, int64_t* ids) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_cvtepu32_epi64(_mm256_castsi256_si128(fields)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + 4), _mm256_cvtepu32_epi64(_mm256_extracti128_si256(fields, 1)));
}
AVX2 void store_8(__m256i fields, int32_t* ids) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), fields);
}
AVX2 __m128i narrowed(__m256i fields) {  // to 16 bits each, which they have no more than
  return _mm_packus_epi32(_mm256_castsi256_si128(fields), _mm256_extracti128_si256(fields, 1));
}
AVX2 void store_8(__m256i fields, int16_t* ids) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(ids), narrowed(fields));
}
AVX2 void store_8(__m256i fields, Byte* ids) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(ids), _mm_packus_epi16(narrowed(fields), _mm_setzero_si128()));
}

}  // namespace

template <class Value>
AVX2 void Avx2::pack(const Value* values, int64_t count, Byte* packed) {
  for (; count >= 16; count -= 16, values += 16, packed += 2) {
    const uint16_t bits = positive_16(values);
    memcpy(packed, &bits, 2);
  }
  Scalar::pack(values, count, packed);
}

template <class Id>
AVX2 void Avx2::unpack(const Byte* packed, int64_t count, int width, Id* ids) {
  if (width <= 25 || width == 32) {  // a field and the bits before it in its byte fit a lane
    alignas(32) Byte source[32];
    alignas(32) int32_t shift[8];
    const int half = width / 2;  // the byte that field 4 starts in, and with it the upper half of the register
    for (int field = 0; field < 8; field++) {
      const int bit = field * width - (field < 4 ? 0 : 8 * half);
      for (int byte = 0; byte < 4; byte++) source[4 * field + byte] = bit / 8 + 3 - byte;
      shift[field] = 32 - width - bit % 8;
    }
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(source));
    const __m256i shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift));
    const __m256i mask = _mm256_set1_epi32(~uint32_t{0} >> (32 - width));
    const Byte* end = packed + bytes_of(count * width);
    for (; end - packed >= half + 16 && count >= 8; packed += width, count -= 8, ids += 8) {
      const __m256i bytes = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(packed + half),
                                                reinterpret_cast<const __m128i*>(packed));
      const __m256i fields = _mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, order), shifts);
      store_8(_mm256_and_si256(fields, mask), ids);
    }
  }
  Scalar::unpack(packed, count, width, ids);
}

template <class Id>
AVX2 void Avx2::spread(const Id* ids, int64_t count, int width, Byte* bits) {
  // An id at a time, in pieces of 16 bits. The last piece spills over into the next id's bits, which overwrite it.
  alignas(16) Byte source[64], bit[64];
  for (int i = 0; i < 64; i++) {
    const int place = width - 1 - i;
    source[i] = place < 0 ? 0 : place / 8;
    bit[i] = 1 << (place & 7);
  }
  const int pieces = (width + 15) / 16;
  for (const Byte* end = bits + count * width; end - bits >= 16 * pieces; count--, ids++, bits += width) {
    const __m128i id = _mm_set1_epi64x(static_cast<int64_t>(*ids));
    for (int piece = 0; piece < pieces; piece++) {
      const __m128i bytes = _mm_shuffle_epi8(id, reinterpret_cast<const __m128i*>(source)[piece]);
      const __m128i set = _mm_and_si128(bytes, reinterpret_cast<const __m128i*>(bit)[piece]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bits) + piece, _mm_min_epu8(set, _mm_set1_epi8(1)));
    }
  }
  Scalar::spread(ids, count, width, bits);
}

template <class Value>
AVX2 void Avx2::sum(const Value* const* rows, const Value* const* next, int row_count, int64_t channels, Value* out) {
  sum_in_vectors(rows, next, row_count, channels, out);
}

ELM_INSTANTIATE_LEVEL(Avx2)

}  // namespace elm::cpu
#endif
