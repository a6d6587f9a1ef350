// What cases.cpp is made of: where jobs run, memory between guards, and the specification written out bit by bit.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "contract.h"

#if defined(ELM_CASES_CPU)
#include "cpu.h"
#else
#include "cuda.h"
#endif

using namespace elm;

namespace {

std::mt19937_64 rng(20);
int64_t random_below(int64_t bound) { return static_cast<int64_t>(rng() % bound); }

// --- Where jobs run --------------------------------------------------------------------------------------------------

#if defined(ELM_CASES_CPU)
cpu::Level level = cpu::Level::scalar;
enum class Order { ascending, descending, threads } order;

template <class Job>
void run(const Job& job) {
  const int64_t count = cpu::count_tiles(job);
  if (order == Order::ascending || count < 2) {
    cpu::run(job, level, 0, count);
  } else if (order == Order::descending) {
    for (int64_t tile = count; tile-- > 0;) cpu::run(job, level, tile, tile + 1);
  } else {
    std::vector<std::thread> threads;
    for (int64_t t = 0; t < 3; t++)
      threads.emplace_back([&job, count, t] { cpu::run(job, level, count * t / 3, count * (t + 1) / 3); });
    for (std::thread& thread : threads) thread.join();
  }
}
void* allocate(size_t bytes) { return malloc(bytes); }
void release(void* memory) { free(memory); }
#elif defined(ELM_CASES_GPU)
template <class Job>
void run(const Job& job) {
  cudaError_t error = cuda::launch(job, nullptr);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error != cudaSuccess) printf("%s\n", cudaGetErrorString(error)), exit(1);
}
void* allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocManaged(&memory, bytes + 1);
  if (error != cudaSuccess) printf("%s\n", cudaGetErrorString(error)), exit(1);
  return memory;
}
void release(void* memory) { cudaFree(memory); }
#else
Schedule schedule;

template <class Job>
void run(const Job& job) {
  if (cuda::launch(job, &schedule) != cudaSuccess) printf("a launch failed\n"), exit(1);
}
void* allocate(size_t bytes) { return malloc(bytes); }
void release(void* memory) { free(memory); }
#endif

// --- Memory ----------------------------------------------------------------------------------------------------------

constexpr size_t kGuard = 64;
constexpr Byte kSentinel = 0xA5;

/// `count` values, `shift` values beyond an address that is a multiple of 16. An output has guards on both sides.
template <class T>
struct Buffer {
  size_t before, size, after;
  Byte* memory;

  Buffer(int64_t count, int shift, bool is_output)
      : before((is_output ? kGuard : 0) + shift * sizeof(T)), size(count * sizeof(T)), after(is_output ? kGuard : 0),
        memory(static_cast<Byte*>(allocate(before + size + after))) {
    memset(memory, kSentinel, before + size + after);
  }
  Buffer(const std::vector<T>& values, int shift) : Buffer(values.size(), shift, false) {
    if (size) memcpy(data(), values.data(), size);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { release(memory); }

  T* data() const { return reinterpret_cast<T*>(memory + before); }
  bool has_whole_guards() const {
    for (size_t i = 0; i < before; i++)
      if (memory[i] != kSentinel) return false;
    for (size_t i = 0; i < after; i++)
      if (memory[before + size + i] != kSentinel) return false;
    return true;
  }
};

int cases = 0;

template <class T>
void check(const Buffer<T>& found, const std::vector<T>& expected, const std::string& name) {
  cases++;
  if (!found.has_whole_guards()) printf("%s: wrote outside of its output\n", name.c_str()), exit(1);
  for (size_t i = 0; i < expected.size(); i++)
    if (memcmp(found.data() + i, &expected[i], sizeof(T)))
      printf("%s: item %zu of %zu differs\n", name.c_str(), i, expected.size()), exit(1);
}

std::string named(const char* operation, std::initializer_list<int64_t> numbers) {
  std::string name = operation;
  for (int64_t number : numbers) name += " " + std::to_string(number);
  return name;
}

// --- The specification -----------------------------------------------------------------------------------------------

using Bits = std::vector<Byte>;  // 0 or 1 each

Bits random_bits(int64_t count) {
  Bits bits(count);
  for (Byte& bit : bits) bit = rng() & 1;
  return bits;
}

/// Rows of bits as bytes, as np.packbits(axis=1), and `extra` bytes after each row.
std::vector<Byte> packed_rows(const Bits& bits, int64_t rows, int64_t extra) {
  const int64_t length = rows ? bits.size() / rows : 0, row_bytes = (length + 7) / 8 + extra;
  std::vector<Byte> packed(rows * row_bytes);
  for (Byte& byte : packed) byte = 0;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < length; i++) packed[row * row_bytes + i / 8] |= bits[row * length + i] << (7 - i % 8);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = row_bytes - extra; i < row_bytes; i++) packed[row * row_bytes + i] = 0xEE;
  return packed;
}

/// Sub-token s is the sum over j of bit [s * width + j] times 2^(width - 1 - j).
uint64_t subtoken(const Bits& bits, int64_t s, int width) {
  uint64_t id = 0;
  for (int j = 0; j < width; j++) id += uint64_t{bits[s * width + j]} << (width - 1 - j);
  return id;
}

float as_float(float value) { return value; }
float as_float(BFloat16 upper_half) {
  const uint32_t bits = uint32_t{upper_half.bits} << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class Value>
Value rounded(float value);
template <>
float rounded(float value) {
  return value;
}
template <>
BFloat16 rounded(float value) {  // the nearer of two neighbours, the even one in the middle
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return {0x7fc0};
  const uint16_t low = bits >> 16, high = low + 1;
  const double below = std::fabs(value - double(as_float(BFloat16{low})));
  const double above = std::fabs(value - double(as_float(BFloat16{high})));
  if (std::isinf(value) || below < above || (below == above && low % 2 == 0)) return {low};
  return {high};
}

}  // namespace
