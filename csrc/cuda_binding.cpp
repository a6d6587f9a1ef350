// Does the operations, which cpu_binding.cpp declares, on the GPU.
#include "binding.h"
#include "cuda.h"

namespace elm {
namespace {

struct Cuda {
  template <class Job>
  static void run(const Job& job, const Tensor& tensor) {
    const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    const cudaError_t error = cuda::launch(job, static_cast<cudaStream_t>(stream));
    STD_TORCH_CHECK(error == cudaSuccess, cudaGetErrorString(error));
  }
};

}  // namespace
}  // namespace elm

STABLE_TORCH_LIBRARY_IMPL(elm_dist, CUDA, library) { elm::implement<elm::Cuda>(library); }

ELM_PYTHON_MODULE(_C_cuda)
