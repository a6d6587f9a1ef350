// Every operation on many small inputs, against the specification written out bit by bit. One source, three programs:
//   cases LEVEL [threads]   with -DELM_CASES_CPU: the CPU kernels of one SIMD level
//   cases 0 [threads]       csrc/cuda.cu on the CPU, by shim/cuda_runtime.h
//   cases                   with -DELM_CASES_GPU, from nvcc: csrc/cuda.cu on the GPU
// On the CPU the parts of a job run in several orders, or in several threads at once. Inputs end where their memory
// ends, so that a sanitizer sees a read too far; outputs lie between guards.
#include <sys/mman.h>

#include "cases.h"

namespace {

// --- unpack_subtokens ------------------------------------------------------------------------------------------------

template <class Id>
void check_unpack(int subtokens, int width, int64_t rows, int64_t positions, int64_t extra, int shift) {
  if (width > int{8 * sizeof(Id)}) return;
  const int64_t fields = positions * subtokens;
  const Bits bits = random_bits(rows * fields * width);
  const Buffer<Byte> packed(packed_rows(bits, rows, extra), shift);
  const Buffer<Id> ids(rows * fields, shift, true);
  std::vector<Id> expected;
  for (int64_t s = 0; s < rows * fields; s++) expected.push_back(static_cast<Id>(subtoken(bits, s, width)));
  run(UnpackSubtokens<Id>{packed.data(), ids.data(), rows, fields, (fields * width + 7) / 8 + extra, width});
  check(ids, expected, named("unpack", {subtokens, width, rows, positions, extra, shift, sizeof(Id)}));
}

template <class Id>
void check_unpack_all() {
  for (int width = 1; width <= 64; width++)
    for (int subtokens = 1; subtokens * width <= 64; subtokens++) {
      check_unpack<Id>(subtokens, width, 1, 40, 0, 0);
      check_unpack<Id>(subtokens, width, 3, 5, 0, 1);  // most rows are no whole bytes
      check_unpack<Id>(subtokens, width, 2, 9, 3, 0);
    }
  for (int width : {1, 8, 10, 12, 16, 25, 26, 32, 58}) {
    check_unpack<Id>(1, width, 1, 8192 * 2 + 77, 0, 0);  // more than two tiles of the CPU
    check_unpack<Id>(1, width, 0, 8, 0, 0);
    check_unpack<Id>(1, width, 1, 0, 0, 0);
  }
}

// --- pack_bits -------------------------------------------------------------------------------------------------------

/// A value of each kind, positive or not.
Byte some_value(Byte, bool positive) { return positive ? 1 + random_below(255) : 0; }
float some_value(float, bool positive) {
  const float positives[] = {1, 1e-45f, 0.5f, INFINITY, 3e38f}, others[] = {0, -0.0f, -1, NAN, -INFINITY, -1e-45f};
  return positive ? positives[random_below(5)] : others[random_below(6)];
}
BFloat16 some_value(BFloat16, bool positive) {
  const uint16_t positives[] = {0x3f80, 0x0001, 0x7f80, 0x7f7f}, others[] = {0, 0x8000, 0xbf80, 0x7fc0, 0x7f81, 0xff80};
  return {positive ? positives[random_below(4)] : others[random_below(6)]};
}

template <class Value>
void check_pack(int64_t rows, int64_t length, int shift) {
  const Bits bits = random_bits(rows * length);
  std::vector<Value> values;
  for (Byte bit : bits) values.push_back(some_value(Value{}, bit));
  const Buffer<Value> input(values, shift);
  const Buffer<Byte> packed(rows * ((length + 7) / 8), shift, true);
  run(PackBits<Value>{input.data(), nullptr, 0, packed.data(), rows, length});
  check(packed, packed_rows(bits, rows, 0), named("pack", {rows, length, shift, sizeof(Value)}));
}

/// A probability at or above which a word of the generator draws a 1, and the next below.
float probability(float, uint32_t word, bool drawn) {
  const float draw = (word >> 8) / 16777216.0f;
  return drawn ? std::nextafter(draw, 2.0f) : draw;
}
BFloat16 probability(BFloat16, uint32_t word, bool drawn) {
  const float draw = (word >> 8) / 16777216.0f;
  uint32_t bits;
  memcpy(&bits, &draw, sizeof bits);
  return {static_cast<uint16_t>((bits >> 16) + drawn)};
}
Byte probability(Byte, uint32_t word, bool drawn) {
  return static_cast<Byte>(255.0 * (word >> 8) / 16777216.0 + drawn);
}

template <class Value>
void check_draw(int64_t rows, int64_t length, int shift) {
  const uint64_t seed = rng();
  const Bits bits = random_bits(rows * length);
  std::vector<int64_t> samples;
  std::vector<Value> values;
  for (int64_t row = 0; row < rows; row++) {
    samples.push_back(static_cast<int64_t>(rng() >> random_below(64)));
    for (int64_t i = 0; i < length; i++) {
      const Philox random(seed, i / 4, samples[row]);
      values.push_back(probability(Value{}, random.word[i % 4], bits[row * length + i]));
    }
  }
  const Buffer<Value> input(values, shift);
  const Buffer<int64_t> chosen(samples, 0);
  const Buffer<Byte> packed(rows * ((length + 7) / 8), shift, true);
  run(PackBits<Value>{input.data(), chosen.data(), seed, packed.data(), rows, length});
  check(packed, packed_rows(bits, rows, 0), named("draw", {rows, length, shift, sizeof(Value)}));
}

template <class Value>
void check_pack_all() {
  for (int64_t length : {0, 1, 7, 8, 9, 15, 16, 17, 24, 31, 63, 64, 65, 127, 130, 200, 4096, 32768 * 2 + 9})
    for (int64_t rows : {0, 1, 3})
      for (int shift : {0, 1}) {
        check_pack<Value>(rows, length, shift);
        if (rows && length && length < 4096) check_draw<Value>(rows, length, shift);
      }
}

void check_philox() {  // the known answers that come with the authors' Random123
  const uint64_t ones = ~uint64_t{0};
  const Philox random[] = {{0, 0, 0},
                           {ones, ones, ones},
                           {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e}};
  const uint32_t known[][4] = {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
  if (memcmp(random, known, sizeof known)) printf("Philox differs from the known answers\n"), exit(1);
}

// --- subtokens_to_bits -----------------------------------------------------------------------------------------------

template <class Id>
void check_spread(int width, int64_t count, int shift) {
  const Bits bits = random_bits(count * width);
  std::vector<Id> ids;
  for (int64_t s = 0; s < count; s++) ids.push_back(static_cast<Id>(subtoken(bits, s, width)));
  const Buffer<Id> input(ids, shift);
  const Buffer<Byte> output(count * width, shift, true);
  run(SubtokensToBits<Id>{input.data(), output.data(), count, width});
  check(output, bits, named("spread", {width, count, shift, sizeof(Id)}));
}

template <class Id>
void check_spread_all() {
  for (int width = 1; width <= int{8 * sizeof(Id)}; width++)
    for (int64_t count : {0, 1, 2, 7, 8, 9, 33, 100}) check_spread<Id>(width, count, count % 2);
  for (int width : {1, 3, 8}) check_spread<Id>(width, 4096 * 2 + 13, 0);
}

// --- embed_packed ----------------------------------------------------------------------------------------------------

template <class Value>
void check_embed(int subtokens, int width, int64_t channels, bool concat, bool with_mask, int shift) {
  const int64_t rows = 2, positions = 19, extra = 2, entries = (int64_t{1} << width) + 1;
  const Bits bits = random_bits(rows * positions * subtokens * width);
  const Buffer<Byte> packed(packed_rows(bits, rows, extra), shift);
  const Buffer<Byte> masked(random_bits(rows * positions), shift);
  std::vector<Buffer<Value>*> tables;
  EmbedPacked<Value> job = {};
  for (int s = 0; s < subtokens; s++) {
    std::vector<Value> table;
    for (int64_t i = 0; i < entries * channels; i++) table.push_back(rounded<Value>(random_below(2001) / 1000.0f - 1));
    if (s == 0) memset(&table[random_below(table.size())], 0xff, sizeof(Value));  // a NaN
    tables.push_back(new Buffer<Value>(table, shift));
    job.tables[s] = tables[s]->data();
  }
  std::vector<Value> expected;
  for (int64_t code = 0; code < rows * positions; code++)
    for (int64_t i = 0; i < channels * (concat ? subtokens : 1); i++) {
      const auto value_of = [&](int s) {
        const bool is_masked = with_mask && masked.data()[code];
        const uint64_t id = is_masked ? uint64_t{1} << width : subtoken(bits, code * subtokens + s, width);
        return job.tables[s][id * channels + i % channels];
      };
      float total = 0;
      for (int s = 0; s < subtokens && !concat; s++) total += as_float(value_of(s));
      expected.push_back(concat ? value_of(i / channels) : rounded<Value>(total));
    }
  const Buffer<Value> out(expected.size(), shift, true);
  job.packed = packed.data(), job.masked = with_mask ? masked.data() : nullptr, job.out = out.data();
  job.rows = rows, job.positions = positions, job.channels = channels, job.subtokens = subtokens, job.width = width;
  job.row_bytes = (positions * subtokens * width + 7) / 8 + extra, job.concat = concat;
  run(job);
  check(out, expected, named("embed", {subtokens, width, channels, concat, with_mask, shift, sizeof(Value)}));
  for (Buffer<Value>* table : tables) delete table;
}

template <class Value>
void check_embed_all() {
  const int shapes[][2] = {{1, 1}, {1, 6}, {2, 4}, {2, 5}, {3, 3}, {5, 2}, {64, 1}};
  for (const auto& [subtokens, width] : shapes)
    for (int64_t channels : {1, 3, 8, 16, 65, 200})
      for (bool concat : {false, true})
        for (int shift : {0, 1}) check_embed<Value>(subtokens, width, channels, concat, (channels + shift) % 2, shift);
}

// --- Far offsets -----------------------------------------------------------------------------------------------------

#if !defined(ELM_CASES_CPU) && !defined(ELM_CASES_GPU)
/// Memory that takes up space only where it is touched.
template <class T>
T* reserve(int64_t count) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (memory == MAP_FAILED) printf("no address space\n"), exit(1);
  return static_cast<T*>(memory);
}

/// The last threads of jobs so large that 32-bit offsets would wrap round.
void check_far() {
  const int64_t bytes = (int64_t{1} << 32) + 64;
  Byte* bits = reserve<Byte>(8 * bytes);
  Byte* packed = reserve<Byte>(bytes);
  int64_t* ids = reserve<int64_t>(bytes);
  schedule = {};
  schedule.only_last = 256;
  bits[8 * bytes - 1] = 1;
  run(PackBits<Byte>{bits, nullptr, 0, packed, 1, 8 * bytes});
  bits[8 * bytes - 1] = 0;
  run(SubtokensToBits<Byte>{packed, bits, bytes, 8});
  run(UnpackSubtokens<int64_t>{packed, ids, 1, bytes, bytes, 8});
  const bool is_right = packed[bytes - 1] == 1 && bits[8 * bytes - 1] == 1 && ids[bytes - 1] == 1;
  if (!is_right) printf("far offsets differ\n"), exit(1);
  munmap(bits, 8 * bytes), munmap(packed, bytes), munmap(ids, bytes * sizeof *ids);
  cases += 3;
}
#endif

void check_all() {
  check_philox();
  check_unpack_all<Byte>(), check_unpack_all<int16_t>(), check_unpack_all<int32_t>(), check_unpack_all<int64_t>();
  check_pack_all<Byte>(), check_pack_all<float>(), check_pack_all<BFloat16>();
  check_spread_all<Byte>(), check_spread_all<int16_t>(), check_spread_all<int32_t>(), check_spread_all<int64_t>();
  check_embed_all<float>(), check_embed_all<BFloat16>();
}

}  // namespace

int main([[maybe_unused]] int count, [[maybe_unused]] char** arguments) {
  [[maybe_unused]] const bool is_threaded = count > 2;
#if defined(ELM_CASES_CPU)
  level = static_cast<cpu::Level>(count > 1 ? atoi(arguments[1]) : 0);
  if (level > cpu::best_level()) printf("this processor has no such instructions\n"), exit(77);
  order = is_threaded ? Order::threads : Order::ascending, check_all();
  if (!is_threaded) order = Order::descending, check_all();
#elif defined(ELM_CASES_GPU)
  check_all();
#else
  check_far();
  schedule = is_threaded ? Schedule{1, false, 3} : Schedule{}, check_all();
  if (!is_threaded) schedule = {1, true}, check_all(), schedule = {7919}, check_all();
#endif
  printf("%d cases\n", cases);
}
