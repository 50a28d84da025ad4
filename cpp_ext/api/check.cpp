// The rules of mmedge.h, checked: what each error says.
#include "check.h"

#include "status.h"

namespace mmedge {
namespace {

bool is_dtype(int32_t dtype) { return dtype >= MMEDGE_F32 && dtype <= MMEDGE_I8; }

mmedge_status check_segment(const mmedge_segattn& call, int index) {
  const mmedge_segment& segment = call.segment[index];
  if (segment.length < 0) {
    return fail(MMEDGE_INVALID, "segment %d: expected a length of 0 or more, got %lld", index,
                static_cast<long long>(segment.length));
  }
  if (!is_dtype(segment.dtype)) {
    return fail(MMEDGE_INVALID, "segment %d: %d is no mmedge_dtype", index, segment.dtype);
  }
  if (segment.length > 0 && (segment.k == nullptr || segment.v == nullptr)) {
    return fail(MMEDGE_INVALID,
                "segment %d: %s is null though the segment has %lld keys; an absent segment has "
                "length 0",
                index, segment.k == nullptr ? "k" : "v", static_cast<long long>(segment.length));
  }
  if (segment.bias != nullptr && segment.bias_dtype != MMEDGE_F32 &&
      segment.bias_dtype != call.dtype) {
    return fail(MMEDGE_INVALID,
                "segment %d: a bias is float32 or of the queries' dtype, got mmedge_dtype %d",
                index, segment.bias_dtype);
  }
  return MMEDGE_OK;
}

}  // namespace

mmedge_status check(const mmedge_segattn* call) {
  if (call == nullptr) return fail(MMEDGE_INVALID, "the call is null");
  if (call->struct_size != sizeof(mmedge_segattn)) {
    return fail(MMEDGE_INVALID,
                "struct_size is %u, this library's mmedge_segattn has %zu bytes: it was built from "
                "another mmedge.h; build the caller and the library from one version",
                call->struct_size, sizeof(mmedge_segattn));
  }
  if (call->mode != MMEDGE_JOINT && call->mode != MMEDGE_INDEPENDENT) {
    return fail(MMEDGE_INVALID, "mode: %d is no mmedge_mode", call->mode);
  }
  if (!is_dtype(call->dtype) || call->dtype == MMEDGE_I8) {
    return fail(MMEDGE_INVALID, "dtype: queries are F32, F16 or BF16, got mmedge_dtype %d",
                call->dtype);
  }
  if (call->segments < 1 || call->segments > MMEDGE_MAX_SEGMENTS) {
    return fail(MMEDGE_INVALID, "segments: expected 1 to %d, got %d", MMEDGE_MAX_SEGMENTS,
                call->segments);
  }
  const struct {
    const char* name;
    int32_t value;
  } sizes[] = {{"batch", call->batch}, {"heads", call->heads}, {"kv_heads", call->kv_heads},
               {"rows", call->rows},   {"dim", call->dim},     {"dim_v", call->dim_v}};
  for (const auto& size : sizes) {
    if (size.value < 1) {
      return fail(MMEDGE_INVALID, "%s: expected at least 1, got %d", size.name, size.value);
    }
  }
  if (call->heads % call->kv_heads != 0) {
    return fail(MMEDGE_INVALID, "kv_heads must divide heads, got %d and %d", call->kv_heads,
                call->heads);
  }
  if (call->num_splits < 0) {
    return fail(MMEDGE_INVALID, "num_splits: expected 0 (by the shape) or more, got %d",
                call->num_splits);
  }
  if (call->q == nullptr || call->out == nullptr) {
    return fail(MMEDGE_INVALID, "%s is null", call->q == nullptr ? "q" : "out");
  }
  if (call->mode == MMEDGE_INDEPENDENT && call->lse != nullptr) {
    return fail(MMEDGE_INVALID,
                "lse: independent segments have no common log-sum-exp; pass NULL, or use "
                "MMEDGE_JOINT");
  }
  if (call->mode == MMEDGE_JOINT && call->gamma != nullptr) {
    return fail(MMEDGE_INVALID,
                "gamma weights independent segments; for a gate on joint ones pass its logarithm "
                "as seg_bias");
  }
  for (int i = 0; i < call->segments; ++i) {
    const mmedge_status status = check_segment(*call, i);
    if (status != MMEDGE_OK) return status;
  }
  return MMEDGE_OK;
}

}  // namespace mmedge
