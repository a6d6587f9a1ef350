// From tensors to jobs: the checks that memory safety asks for, and the outputs. A `Device` says where a job is done:
// `Device::run(job, tensor)` does it where that tensor is. Written against torch's stable ABI, so that one build serves
// many versions of torch and Python; shapes of fake tensors and gradients are in elm_dist/codes/extension.py.
#pragma once

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "contract.h"

namespace elm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

/// A new tensor on the device of `like`; `torch::stable::new_empty` goes through the dispatcher and takes 1 us longer.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t dim = shape.size(); dim-- > 1;) strides[dim - 1] = strides[dim] * (shape[dim] > 1 ? shape[dim] : 1);
  const auto dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), dtype_code, device,
                                                         like.get_device_index(), &handle));
  return Tensor(handle);
}

inline void check_like(const Tensor& tensor, ScalarType dtype, std::vector<int64_t> shape, const Tensor& beside,
                       const char* what) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && std::vector<int64_t>(sizes.begin(), sizes.end()) == shape &&
                      tensor.device() == beside.device(),
                  "expected ", what, ", on the device of the other tensors");
}

inline void check_packed(const Tensor& packed, int64_t positions, int64_t subtokens, int64_t subtoken_bits) {
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.dim() == 2, "packed must be uint8 (batch, bytes)");
  STD_TORCH_CHECK(subtokens >= 1 && subtoken_bits >= 1 && subtokens <= 64 / subtoken_bits,
                  "a code must have 1 to 64 bits, not ", subtokens, " x ", subtoken_bits);
  STD_TORCH_CHECK(positions >= 0 && positions <= packed.size(1) * 8 / (subtokens * subtoken_bits), "a row of ",
                  packed.size(1), " bytes does not hold ", positions, " positions of ", subtokens, " x ",
                  subtoken_bits, " bits");
}

template <class Id>
void check_width(int64_t subtoken_bits) {
  STD_TORCH_CHECK(subtoken_bits >= 1 && subtoken_bits <= int64_t{8 * sizeof(Id)}, "sub-tokens of ", subtoken_bits,
                  " bits do not fit ids of ", 8 * sizeof(Id));
}

/// Call `run` with a zero of the C++ type of a dtype.
template <class Run>
void with_id_type(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::Byte:
      return run(Byte{});
    case ScalarType::Short:
      return run(int16_t{});
    case ScalarType::Int:
      return run(int32_t{});
    case ScalarType::Long:
      return run(int64_t{});
    default:
      STD_TORCH_CHECK(false, "ids must be uint8, int16, int32 or int64");
  }
}

template <class Device>
Tensor pack_bits(const Tensor& values_, const std::optional<Tensor>& samples_, int64_t seed) {
  const Tensor values = dense(values_);
  STD_TORCH_CHECK(values.dim() == 2, "values must be (batch, bits)");
  const int64_t rows = values.size(0), bits = values.size(1);
  std::optional<Tensor> samples;
  if (samples_) {
    samples = dense(*samples_);
    check_like(*samples, ScalarType::Long, {rows}, values, "samples, int64 (batch,)");
  }
  Tensor packed = empty(values, {rows, bytes_of(bits)}, ScalarType::Byte);
  const bool is_one_row = !samples && bits % 8 == 0;  // rows of whole bytes need no seam between them
  const auto run = [&](auto value) {
    using Value = decltype(value);
    PackBits<Value> job = {data<Value>(values), samples ? data<int64_t>(*samples) : nullptr,
                           static_cast<uint64_t>(seed), data<Byte>(packed), rows, bits};
    if (is_one_row) job.bits *= job.rows, job.rows = 1;
    Device::run(job, values);
  };
  switch (values.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      run(Byte{});
      break;
    case ScalarType::Float:
      run(float{});
      break;
    case ScalarType::BFloat16:
      run(BFloat16{});
      break;
    default:
      STD_TORCH_CHECK(false, "values must be bool, uint8, float32 or bfloat16");
  }
  return packed;
}

template <class Device>
Tensor unpack_subtokens(const Tensor& packed_, int64_t positions, int64_t subtokens, int64_t subtoken_bits,
                        ScalarType dtype) {
  const Tensor packed = dense(packed_);
  check_packed(packed, positions, subtokens, subtoken_bits);
  const int64_t rows = packed.size(0), fields = positions * subtokens;
  Tensor ids = empty(packed, {rows, positions, subtokens}, dtype);
  with_id_type(dtype, [&](auto id) {
    using Id = decltype(id);
    check_width<Id>(subtoken_bits);
    UnpackSubtokens<Id> job = {data<Byte>(packed), data<Id>(ids), rows, fields, packed.size(1),
                               static_cast<int>(subtoken_bits)};
    if (fields * subtoken_bits == 8 * job.row_bytes) job.fields *= job.rows, job.rows = 1;
    Device::run(job, packed);
  });
  return ids;
}

template <class Device>
Tensor subtokens_to_bits(const Tensor& ids_, int64_t subtoken_bits) {
  const Tensor ids = dense(ids_);
  STD_TORCH_CHECK(ids.dim() >= 1, "ids must be (..., subtokens)");
  std::vector<int64_t> shape(ids.sizes().begin(), ids.sizes().end());
  shape.back() *= subtoken_bits;
  with_id_type(ids.scalar_type(), [&](auto id) { check_width<decltype(id)>(subtoken_bits); });
  Tensor bits = empty(ids, shape, ScalarType::Byte);
  with_id_type(ids.scalar_type(), [&](auto id) {
    using Id = decltype(id);
    SubtokensToBits<Id> job = {data<Id>(ids), data<Byte>(bits), ids.numel(), static_cast<int>(subtoken_bits)};
    Device::run(job, ids);
  });
  return bits;
}

template <class Device>
Tensor embed_packed(const Tensor& packed_, const std::vector<Tensor>& tables_, int64_t positions, int64_t subtoken_bits,
                    bool concat, const std::optional<Tensor>& masked_) {
  const Tensor packed = dense(packed_);
  const int64_t rows = packed.size(0), subtokens = tables_.size();
  check_packed(packed, positions, subtokens, subtoken_bits);
  STD_TORCH_CHECK(subtoken_bits < 63 && tables_[0].dim() == 2, "tables must be (entries, channels)");
  const int64_t entries = tables_[0].size(0), channels = tables_[0].size(1);
  STD_TORCH_CHECK(entries >= (int64_t{1} << subtoken_bits) + masked_.has_value(), "tables of ", entries,
                  " entries are too small for ", subtoken_bits, " bits", masked_ ? " and the mask token" : "");
  std::optional<Tensor> masked;
  if (masked_) {
    masked = dense(*masked_);
    check_like(*masked, ScalarType::Bool, {rows, positions}, packed, "masked, bool (batch, positions)");
  }
  std::vector<Tensor> tables;
  for (const Tensor& table : tables_) {
    check_like(table, tables_[0].scalar_type(), {entries, channels}, packed, "tables of one shape and dtype");
    tables.push_back(dense(table));
  }
  Tensor out = empty(packed, {rows, positions, channels * (concat ? subtokens : 1)}, tables[0].scalar_type());
  const auto run = [&](auto value) {
    using Value = decltype(value);
    EmbedPacked<Value> job = {data<Byte>(packed), masked ? data<Byte>(*masked) : nullptr, {}, data<Value>(out),
                              rows, positions, packed.size(1), channels, static_cast<int>(subtokens),
                              static_cast<int>(subtoken_bits), concat};
    for (int64_t subtoken = 0; subtoken < subtokens; subtoken++) job.tables[subtoken] = data<Value>(tables[subtoken]);
    Device::run(job, packed);
  };
  switch (out.scalar_type()) {
    case ScalarType::Float:
      run(float{});
      break;
    case ScalarType::BFloat16:
      run(BFloat16{});
      break;
    default:
      STD_TORCH_CHECK(false, "tables must be float32 or bfloat16");
  }
  return out;
}

/// Register the operations for a dispatch key, whose `Device` does their jobs.
template <class Device>
void implement(torch::stable::detail::StableLibrary& library) {
  library.impl("pack_bits", TORCH_BOX(&pack_bits<Device>));
  library.impl("unpack_subtokens", TORCH_BOX(&unpack_subtokens<Device>));
  library.impl("subtokens_to_bits", TORCH_BOX(&subtokens_to_bits<Device>));
  library.impl("embed_packed", TORCH_BOX(&embed_packed<Device>));
}

}  // namespace elm

/// What `import` asks for; all else happens when the library is loaded.
#define ELM_PYTHON_MODULE(name)                                                      \
  PyMODINIT_FUNC PyInit_##name() {                                                   \
    static PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT, .m_name = #name};  \
    return PyModule_Create(&module);                                                 \
  }
