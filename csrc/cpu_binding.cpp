// Declares the operations, once for all devices, and does them on the CPU.
#include <algorithm>
#include <atomic>

#include "binding.h"
#include "cpu.h"

namespace elm {
namespace {

std::atomic<int> level = static_cast<int>(cpu::best_level());

constexpr int64_t kTilesPerThread = 4;  // at least: some 10 us, which pay for waking it

struct Cpu {
  template <class Job>
  static void run(const Job& job, const Tensor&) {
    torch::stable::parallel_for(0, cpu::count_tiles(job), kTilesPerThread, [&](int64_t begin, int64_t end) {
      cpu::run(job, static_cast<cpu::Level>(level.load()), begin, end);
    });
  }
};

/// Return the `cpu::Level` in use, after lowering it to `limit`, so that a test can force each.
int64_t simd_level(std::optional<int64_t> limit) {
  if (limit) {
    STD_TORCH_CHECK(*limit >= 0, "the lowest level is 0");
    level = static_cast<int>(std::min<int64_t>(*limit, static_cast<int>(cpu::best_level())));
  }
  return level;
}

}  // namespace
}  // namespace elm

STABLE_TORCH_LIBRARY(elm_dist, library) {
  library.def("pack_bits(Tensor values, Tensor? samples, int seed) -> Tensor");
  library.def(
      "unpack_subtokens(Tensor packed, int positions, int subtokens, int subtoken_bits, ScalarType dtype) -> Tensor");
  library.def("subtokens_to_bits(Tensor ids, int subtoken_bits) -> Tensor");
  library.def(
      "embed_packed(Tensor packed, Tensor[] tables, int positions, int subtoken_bits, bool concat, Tensor? masked) "
      "-> Tensor");
  library.def("simd_level(int? limit=None) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(elm_dist, CPU, library) { elm::implement<elm::Cpu>(library); }

STABLE_TORCH_LIBRARY_IMPL(elm_dist, CompositeExplicitAutograd, library) {
  library.impl("simd_level", TORCH_BOX(&elm::simd_level));
}

ELM_PYTHON_MODULE(_C)
