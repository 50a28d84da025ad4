// The rules of mmedge/kernels.h, checked: what each error says.
#include "check.h"

#include <cstdint>

#include "status.h"

namespace mmedge {
namespace {

bool is_dtype(int32_t dtype) { return dtype >= MMEDGE_F32 && dtype <= MMEDGE_I8; }

// A size, a step or a product of them that may be too large for 64 bits.
class Elements {
 public:
  explicit Elements(int64_t count) : count_(count) {}

  Elements& times(int64_t factor) {
    fits_ = !__builtin_mul_overflow(count_, factor, &count_) && fits_;
    return *this;
  }

  Elements& plus(const Elements& other) {
    fits_ = !__builtin_add_overflow(count_, other.count_, &count_) && fits_ && other.fits_;
    return *this;
  }

  // Whether so many elements of `bytes` bytes have addresses.
  bool addressable(int bytes) const {
    return fits_ && count_ >= 0 && count_ <= INT64_MAX / bytes;
  }

 private:
  int64_t count_;
  bool fits_ = true;
};

int size_of(int32_t dtype) {
  return dtype == MMEDGE_F32 ? 4 : dtype == MMEDGE_I8 ? 1 : 2;
}

// Whether the last element of a tensor has an address: of `sizes` with these strides, and `width`
// elements in a row. Strides may be negative; the lowest one has no meaning of its own.
template <int N>
bool reachable(const int64_t (&sizes)[N], const int64_t (&stride)[N], int64_t width, int bytes) {
  Elements all(width);
  for (int axis = 0; axis < N; ++axis) {
    if (sizes[axis] < 2) continue;
    if (stride[axis] == INT64_MIN) return false;
    const int64_t step = stride[axis] < 0 ? -stride[axis] : stride[axis];
    all.plus(Elements(sizes[axis] - 1).times(step));
  }
  return all.addressable(bytes);
}

mmedge_status too_large(const char* what) {
  return fail(MMEDGE_INVALID, "%s: sizes and strides go beyond what 64 bits address", what);
}

// Every tensor of a call can be addressed, and so can what has an element for each of its sizes.
mmedge_status check_sizes(const mmedge_segattn& call) {
  const int64_t wide = call.dim > call.dim_v ? call.dim : call.dim_v;
  if (!Elements(call.batch).times(call.heads).times(call.rows).times(wide).addressable(4)) {
    return fail(MMEDGE_INVALID,
                "batch * heads * rows * dim: %d * %d * %d * %lld elements go beyond what 64 bits "
                "address",
                call.batch, call.heads, call.rows, static_cast<long long>(wide));
  }
  const int64_t sizes[3] = {call.batch, call.rows, call.heads};
  const int64_t gates[2] = {call.batch, call.heads};
  if (!reachable(sizes, call.q_stride, call.dim, size_of(call.dtype))) return too_large("q");
  if (!reachable(sizes, call.out_stride, call.dim_v, size_of(call.dtype))) return too_large("out");
  if (call.seg_bias != nullptr && !reachable(gates, call.seg_bias_stride, call.segments, 4)) {
    return too_large("seg_bias");
  }
  if (call.gamma != nullptr && !reachable(gates, call.gamma_stride, call.segments, 4)) {
    return too_large("gamma");
  }
  for (int i = 0; i < call.segments; ++i) {
    const mmedge_segment& segment = call.segment[i];
    if (segment.length == 0) continue;
    const int64_t keys[3] = {call.batch, segment.length, call.kv_heads};
    const int64_t scores[3] = {call.batch, call.heads, call.rows};
    const int64_t batches[1] = {call.batch};
    const int64_t valid[1] = {segment.key_valid_stride};
    const int bytes = size_of(segment.dtype);
    const bool fits =
        reachable(keys, segment.k_stride, call.dim, bytes) &&
        reachable(keys, segment.v_stride, call.dim_v, bytes) &&
        (segment.key_valid == nullptr || reachable(batches, valid, segment.length, 1)) &&
        (segment.bias == nullptr || reachable(scores, segment.bias_stride, segment.length, 4));
    if (!fits) {
      return fail(MMEDGE_INVALID,
                  "segment %d: sizes and strides go beyond what 64 bits address", i);
    }
  }
  return MMEDGE_OK;
}

mmedge_status check_segment(const mmedge_segattn& call, int index) {
  const mmedge_segment& segment = call.segment[index];
  if (segment.length < 0 || segment.length > INT32_MAX) {
    return fail(MMEDGE_INVALID, "segment %d: expected a length of 0 to %d, got %lld", index,
                INT32_MAX, static_cast<long long>(segment.length));
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
                "another mmedge/kernels.h; build the caller and the library from one version",
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
  return check_sizes(*call);
}

mmedge_status check_result(const size_t* bytes) {
  return bytes == nullptr ? fail(MMEDGE_INVALID, "bytes: expected where to write them, got null")
                          : MMEDGE_OK;
}

}  // namespace mmedge
