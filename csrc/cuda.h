// The GPU's way with a job. Knows nothing of torch.
#pragma once

#include <cuda_runtime.h>

#include "contract.h"

namespace elm::cuda {

/// Start the kernel of a job on a stream, without waiting for it.
template <class Job>
cudaError_t launch(const Job& job, cudaStream_t stream);

}  // namespace elm::cuda
