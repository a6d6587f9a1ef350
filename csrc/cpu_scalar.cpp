// The portable twin of cpu_avx2.cpp and cpu_avx512.cpp, and their way with the last fields of a run.
#include "cpu.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "packed bytes are read as little-endian words");

namespace elm::cpu {

template <class Value>
void Scalar::pack(const Value* values, int64_t count, Byte* packed) {
  for (; count >= 8; count -= 8, values += 8) {
    unsigned byte = 0;
    for (int i = 0; i < 8; i++) byte = byte << 1 | is_positive(values[i]);
    *packed++ = byte;
  }
  unsigned rest = 0;
  for (int64_t i = 0; i < count; i++) rest |= is_positive(values[i]) << (7 - i);
  if (count > 0) *packed = rest;
}

template <class Id>
void Scalar::unpack(const Byte* packed, int64_t count, int width, Id* ids) {
  int64_t index = 0;
  if (width <= 57) {  // a field and the bits before it in its byte fit a word of 8 bytes, as long as there are 8
    const int64_t last_word = bytes_of(count * width) - 8;
    for (int64_t bit = 0; index < count && bit / 8 <= last_word; index++, bit += width) {
      uint64_t word;
      memcpy(&word, packed + bit / 8, 8);
      ids[index] = static_cast<Id>(__builtin_bswap64(word) << bit % 8 >> (64 - width));
    }
  }
  FieldReader fields(packed, index * width);
  for (; index < count; index++) ids[index] = static_cast<Id>(fields.next(width));
}

template <class Id>
void Scalar::spread(const Id* ids, int64_t count, int width, Byte* bits) {
  for (int64_t index = 0; index < count; index++)
    for (int bit = width - 1; bit >= 0; bit--) *bits++ = static_cast<uint64_t>(ids[index]) >> bit & 1;
}

template <class Value>
void Scalar::sum(const Value* const* rows, const Value* const*, int row_count, int64_t channels, Value* out) {
  for (int64_t channel = 0; channel < channels; channel++) {
    float total = 0;
    for (int row = 0; row < row_count; row++) total += to_float(rows[row][channel]);
    from_float(total, out[channel]);
  }
}

ELM_INSTANTIATE_LEVEL(Scalar)

}  // namespace elm::cpu
