// Enough of CUDA to run csrc/cuda.cu on the CPU, one GPU thread after the other. `#include <cuda_runtime.h>` finds this
// file before the toolkit's, so the source is compiled as it is. What it cannot show: speed, and what nvcc makes of the
// source. A stream says in which order threads run, as kernels whose threads share nothing must not care.
#pragma once

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)

struct __attribute__((aligned(16), may_alias)) uint4 {
  uint32_t x, y, z, w;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline thread_local dim3 threadIdx, blockIdx;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };

struct Schedule {
  int64_t stride = 1;     // from one thread to the next, a prime: scattered above 1
  bool descending = false;
  int workers = 1;        // threads of the CPU, which share out those of the GPU
  int64_t only_last = 0;  // run the last threads alone, where all would be too many
};
using cudaStream_t = const Schedule*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};

template <class... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  const Schedule schedule = *config->stream;
  const int64_t threads = int64_t{config->gridDim.x} * config->blockDim.x;
  const auto work = [&](int worker) {
    const int64_t first = schedule.only_last ? threads - schedule.only_last : 0;
    for (int64_t i = first + worker; i < threads; i += schedule.workers) {
      int64_t index = threads % schedule.stride ? i * schedule.stride % threads : i;
      if (schedule.descending) index = threads - 1 - index;
      blockIdx.x = static_cast<unsigned>(index / config->blockDim.x);
      threadIdx.x = static_cast<unsigned>(index % config->blockDim.x);
      kernel(arguments...);
    }
  };
  std::vector<std::thread> workers;
  for (int worker = 1; worker < schedule.workers; worker++) workers.emplace_back(work, worker);
  work(0);
  for (std::thread& worker : workers) worker.join();
  return cudaSuccess;
}
