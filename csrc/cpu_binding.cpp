// Declares the operations, once for all devices, and does them on the CPU.
#include <atomic>

#include "binding.h"
#include "cpu.h"

namespace elm {
namespace {

std::atomic<int> level = static_cast<int>(cpu::best_level());

struct Cpu {
  template <class Job>
  static void run(const Job& job, const Tensor&) {
    torch::stable::parallel_for(0, cpu::count_tiles(job), 1, [&](int64_t begin, int64_t end) {
      cpu::run(job, static_cast<cpu::Level>(level.load()), begin, end);
    });
  }
};

/// Use no instructions above a `cpu::Level`, so that a test can force each; return the level in use.
int64_t limit_simd(int64_t highest) {
  STD_TORCH_CHECK(highest >= 0, "the lowest level is 0");
  const int64_t best = static_cast<int64_t>(cpu::best_level());
  level = static_cast<int>(highest < best ? highest : best);
  return level;
}

}  // namespace
}  // namespace elm

STABLE_TORCH_LIBRARY(elm_dist, library) {
  library.def("pack_bits(Tensor values, Tensor? samples, int seed) -> Tensor");
  library.def("unpack_subtokens(Tensor packed, int positions, int subtokens, int subtoken_bits, ScalarType dtype) -> Tensor");
  library.def("subtokens_to_bits(Tensor ids, int subtoken_bits) -> Tensor");
  library.def("embed_packed(Tensor packed, Tensor[] tables, int positions, int subtoken_bits, bool concat, Tensor? masked) -> Tensor");
  library.def("limit_simd(int highest) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(elm_dist, CPU, library) { elm::implement<elm::Cpu>(library); }

STABLE_TORCH_LIBRARY_IMPL(elm_dist, CompositeExplicitAutograd, library) {
  library.impl("limit_simd", TORCH_BOX(&elm::limit_simd));
}

ELM_PYTHON_MODULE(_C)
