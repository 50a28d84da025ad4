// What the CUDA kernels do not take, and what to do about it.
#include <cstdint>
#include <cstdio>
#include <limits>

#include "api/status.h"
#include "plan.h"

namespace mmedge::cuda {
namespace {

// Bytes that a tensor's address and steps must be multiples of: rows are read 16 bytes at a time.
constexpr int kAlignment = 16;

constexpr int kMostBlocks = 65535;  // blocks of a grid along y and z
constexpr int64_t kMostKeys = std::numeric_limits<int32_t>::max() / 2;

int size_of(int32_t dtype) { return dtype == MMEDGE_I8 ? 1 : 2; }

const char* name_of(int32_t dtype) {
  switch (dtype) {
    case MMEDGE_F32: return "F32";
    case MMEDGE_F16: return "F16";
    case MMEDGE_BF16: return "BF16";
    default: return "I8";
  }
}

// `where` is "q", "out", "k" or "v"; `segment` is negative for the first two. Strides along axes of
// one element, of `sizes` batches, rows and heads, do not matter.
mmedge_status check_alignment(const char* where, int segment, const void* data,
                              const int64_t (&stride)[3], const int64_t (&sizes)[3],
                              int32_t dtype) {
  char name[24] = "";
  if (segment >= 0) {
    std::snprintf(name, sizeof name, "segment %d: ", segment);
  }
  if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
    return fail(MMEDGE_UNSUPPORTED,
                "%s%s: expected an address that is a multiple of %d bytes, got %p; copy it into a "
                "tensor of its own",
                name, where, kAlignment, data);
  }
  const int step = kAlignment / size_of(dtype);
  for (int axis = 0; axis < 3; ++axis) {
    if (sizes[axis] > 1 && stride[axis] % step != 0) {
      return fail(MMEDGE_UNSUPPORTED,
                  "%s%s: expected strides that are multiples of %d elements, got %lld, %lld, %lld; "
                  "copy it into a contiguous tensor",
                  name, where, step, static_cast<long long>(stride[0]),
                  static_cast<long long>(stride[1]), static_cast<long long>(stride[2]));
    }
  }
  return MMEDGE_OK;
}

mmedge_status check_segment(const mmedge_segattn& call, int index) {
  const mmedge_segment& segment = call.segment[index];
  if (segment.length == 0) return MMEDGE_OK;
  if (segment.length > kMostKeys) {
    return fail(MMEDGE_UNSUPPORTED, "segment %d: at most %lld keys, got %lld", index,
                static_cast<long long>(kMostKeys), static_cast<long long>(segment.length));
  }
  if (segment.dtype != call.dtype && segment.dtype != MMEDGE_I8) {
    return fail(MMEDGE_UNSUPPORTED,
                "segment %d: keys and values have the dtype of queries, %s, or I8; got %s", index,
                name_of(call.dtype), name_of(segment.dtype));
  }
  const int64_t sizes[3] = {call.batch, segment.length, call.kv_heads};
  const mmedge_status status =
      check_alignment("k", index, segment.k, segment.k_stride, sizes, segment.dtype);
  if (status != MMEDGE_OK) return status;
  return check_alignment("v", index, segment.v, segment.v_stride, sizes, segment.dtype);
}

}  // namespace

mmedge_status unsupported(const mmedge_segattn& call) {
  if (call.dtype != MMEDGE_F16 && call.dtype != MMEDGE_BF16) {
    return fail(MMEDGE_UNSUPPORTED,
                "the CUDA kernels take F16 and BF16 queries, got %s; convert q, k and v",
                name_of(call.dtype));
  }
  if (call.dim_v != call.dim) {
    return fail(MMEDGE_UNSUPPORTED,
                "the CUDA kernels need values as wide as keys, got dim %d and dim_v %d; fill the "
                "narrower one up with zeros",
                call.dim, call.dim_v);
  }
  if (call.dim > MMEDGE_MAX_DIM || call.dim % 8 != 0) {
    return fail(MMEDGE_UNSUPPORTED,
                "the CUDA kernels take heads of up to %d elements in multiples of 8, got dim %d",
                MMEDGE_MAX_DIM, call.dim);
  }
  const int64_t groups = static_cast<int64_t>(call.batch) * call.kv_heads;
  if (groups > kMostBlocks) {
    return fail(MMEDGE_UNSUPPORTED, "batch * kv_heads: at most %d, got %lld; call it in parts",
                kMostBlocks, static_cast<long long>(groups));
  }
  const int64_t rows = static_cast<int64_t>(call.heads) / call.kv_heads * call.rows;
  const int per_tile = rows_per_tile(role_of(rows));
  const int64_t tiles = (rows + per_tile - 1) / per_tile;
  if (tiles > kMostBlocks) {
    return fail(MMEDGE_UNSUPPORTED,
                "rows * heads / kv_heads: at most %d, got %lld; call it in parts",
                kMostBlocks * per_tile, static_cast<long long>(rows));
  }
  const int64_t sizes[3] = {call.batch, call.rows, call.heads};
  mmedge_status status = check_alignment("q", -1, call.q, call.q_stride, sizes, call.dtype);
  if (status != MMEDGE_OK) return status;
  status = check_alignment("out", -1, call.out, call.out_stride, sizes, call.dtype);
  if (status != MMEDGE_OK) return status;
  for (int i = 0; i < call.segments; ++i) {
    status = check_segment(call, i);
    if (status != MMEDGE_OK) return status;
  }
  // Only a number of parts that is asked for can cut so many tiles.
  if (call.num_splits > 1 && groups * tiles > kCounters) {
    return fail(MMEDGE_UNSUPPORTED,
                "num_splits: %lld tiles of queries cannot be cut, at most %d; pass 0",
                static_cast<long long>(groups * tiles), kCounters);
  }
  return MMEDGE_OK;
}

}  // namespace mmedge::cuda
