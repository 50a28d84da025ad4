/* mmedge's kernels: attention over several segments of keys and values in one softmax.
 *
 * It needs neither CUDA nor any framework. Tensors are raw pointers with strides in elements; the last
 * dimension is always contiguous. No function allocates memory on behalf of the caller, and none but
 * the two that make and end a pool allocates at all.
 */
#ifndef MMEDGE_KERNELS_H_
#define MMEDGE_KERNELS_H_

#include "mmedge/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Most segments of one call, and the widest head on a GPU and on the CPU. */
#define MMEDGE_MAX_SEGMENTS 8
#define MMEDGE_MAX_DIM 128
#define MMEDGE_MAX_DIM_CPU 256

/* MMEDGE_JOINT: one softmax over the keys of all segments.
 * MMEDGE_INDEPENDENT: sum over segments of gamma * softmax(segment) * values; no log-sum-exp. */
typedef enum mmedge_mode { MMEDGE_JOINT = 0, MMEDGE_INDEPENDENT = 1 } mmedge_mode;

/* ---- Threads of the caller -------------------------------------------------------------------
 *
 * The CPU kernel has no threads of its own. It hands independent tasks to a function of the
 * caller's, which runs task(arg, i) for each i in [0, count) in any order and on any threads, and
 * returns when all are done. What is computed does not depend on how many threads there are: equal
 * to the last bit.
 */
typedef void (*mmedge_task)(void* arg, size_t index);
typedef void (*mmedge_parallel_for)(void* pool, size_t count, mmedge_task task, void* arg);

/* A pool for callers that have none. `threads` counts the calling thread, which works too; 1 or
 * less makes a pool without threads, and 4096 is the most. NULL when they cannot be started:
 * mmedge_last_error() says why. */
MMEDGE_API void* mmedge_pool_create(int threads);
/* Ends the threads, which must be idle. NULL is allowed. Called by a task of this pool it does
 * nothing. */
MMEDGE_API void mmedge_pool_destroy(void* pool);
/* An mmedge_parallel_for over such a pool. Callers that come at once take turns. A task may call it
 * again, for this pool or another: where it would wait for itself, it runs on the calling thread.
 * A NULL pool runs all on the calling thread, too; a NULL task runs nothing, and
 * mmedge_last_error() says so. */
MMEDGE_API void mmedge_pool_run(void* pool, size_t count, mmedge_task task, void* arg);

/* ---- Segmented attention ---------------------------------------------------------------------
 *
 * Let S be the segments. For query row i of head h in batch b, with kv = h / (heads / kv_heads):
 *
 *   score(s, j) = scale * q[b, i, h] . k_s[b, j, kv] * k_scale_s
 *                 + bias_s[b, h, i, j] + seg_bias[b, h, s]
 *   JOINT:        out = sum over s, j of softmax(score)(s, j) * v_s[b, j, kv] * v_scale_s
 *   INDEPENDENT:  out = sum over s of gamma[b, h, s] * (the same over the keys of s alone)
 *
 * Keys take part where j < lens_s[b], key_valid_s[b, j] is not 0, and bias and seg_bias are not
 * minus infinity. What stands in keys and values that take no part, NaN and infinity too, has no
 * effect. A row with no key at all gives 0, or NaN where `empty_is_nan`, and a log-sum-exp of minus
 * infinity. Scores, maxima, sums and outputs are accumulated in float32.
 *
 * Sizes and strides are refused (MMEDGE_INVALID) where an element of a tensor would lie beyond what
 * 64 bits address, and where batch * heads * rows * dim float32 would.
 *
 * A segment of length 0 is absent. A batch stride of 0 shares one tensor among all batches; any
 * other stride may be 0 as well, which repeats.
 */
typedef struct mmedge_segment {
  const void* k;            /* [batch, length, kv_heads, dim] */
  const void* v;            /* [batch, length, kv_heads, dim_v] */
  int64_t k_stride[3];      /* elements from one batch, row, head to the next */
  int64_t v_stride[3];
  int64_t length;           /* rows; 0 to 2^31 - 1 */
  const int32_t* lens;      /* [batch]: rows that count, clamped to [0, length]; NULL: all.
                               Read on the device that computes. */
  const uint8_t* key_valid; /* [batch, length]: 0 hides a key; NULL: none is hidden */
  int64_t key_valid_stride; /* from one batch to the next */
  const void* bias;         /* [batch, heads, rows, length], added to scores; NULL: none */
  int64_t bias_stride[3];   /* batch, head, row; 0 repeats. Along keys it is contiguous. */
  int32_t bias_dtype;       /* an mmedge_dtype; MMEDGE_F32, or on CUDA also the dtype of q */
  int32_t dtype;            /* an mmedge_dtype: of k and v */
  float k_scale;            /* factors of 8-bit k and v; ignored for other dtypes */
  float v_scale;
} mmedge_segment;

typedef struct mmedge_segattn {
  uint32_t struct_size; /* sizeof(mmedge_segattn) as the caller was compiled */
  int32_t mode;         /* an mmedge_mode */
  int32_t dtype;        /* an mmedge_dtype: of q and out */
  int32_t batch;        /* at least 1, as the next four */
  int32_t heads;
  int32_t kv_heads; /* divides heads */
  int32_t rows;
  int32_t dim; /* of q and k; at most MMEDGE_MAX_DIM or MMEDGE_MAX_DIM_CPU */
  int32_t dim_v;
  int32_t segments; /* 1 to MMEDGE_MAX_SEGMENTS */
  int32_t num_splits; /* parts into which the keys of one query tile are cut; 0: by the shape */
  int32_t empty_is_nan;
  float scale;
  const void* q; /* [batch, rows, heads, dim] */
  int64_t q_stride[3]; /* batch, row, head */
  void* out; /* [batch, rows, heads, dim_v] */
  int64_t out_stride[3];
  float* lse; /* [batch, heads, rows], natural logarithm, contiguous; NULL: not wanted */
  const float* seg_bias; /* [batch, heads, segments]; NULL: 0 */
  int64_t seg_bias_stride[2]; /* batch, head; 0 repeats. Along segments it is contiguous. */
  const float* gamma; /* INDEPENDENT alone: [batch, heads, segments]; NULL: 1 */
  int64_t gamma_stride[2];
  mmedge_segment segment[MMEDGE_MAX_SEGMENTS];
} mmedge_segattn;

/* Bytes of workspace that mmedge_segattn_cpu() needs, into *bytes; often 0. */
MMEDGE_API mmedge_status mmedge_segattn_cpu_workspace(const mmedge_segattn* desc, size_t* bytes);

/* Compute on the CPU, all pointers on the host. `workspace` has what mmedge_segattn_cpu_workspace()
 * asked for, aligned to 64 bytes; `parallel_for` may be NULL for the calling thread alone. */
MMEDGE_API mmedge_status mmedge_segattn_cpu(const mmedge_segattn* desc, void* workspace,
                                            mmedge_parallel_for parallel_for, void* pool);

/* Instruction set that the CPU kernel uses: "avx512", "avx2", "neon" or "portable". */
MMEDGE_API const char* mmedge_cpu_isa(void);

/* Use another one from now on, in all threads; for tests and comparisons. NULL: the best again. */
MMEDGE_API mmedge_status mmedge_cpu_use_isa(const char* isa);

/* Calls of mmedge_segattn_cpu() that computed, since the library was loaded, by whomever: it tells
 * whether a framework really called the kernel. */
MMEDGE_API uint64_t mmedge_segattn_cpu_calls(void);

/* Bytes of device memory that mmedge_segattn_enqueue() needs, into *bytes; often 0. Depends on the
 * current GPU, for which it also loads the kernel: ask before a stream is captured. */
MMEDGE_API mmedge_status mmedge_segattn_workspace(const mmedge_segattn* desc, size_t* bytes);

/* Compute on the current GPU, all pointers on the device. `stream` is a cudaStream_t. Returns when
 * the work is enqueued: nothing is allocated, waited for or read back, so a graph may capture it,
 * and lengths may change between replays. The first call that uses a workspace must find it zeroed
 * (cudaMemsetAsync); the kernel leaves it ready for the next one. Its address is a multiple of 16.
 *
 * dim_v is dim, a multiple of 8. Tensors are read 16 bytes at a time: addresses are multiples of 16,
 * and strides multiples of 8 elements, of 16 where they are 8-bit. num_splits is at most 32 here; of
 * more, 32 are made. */
MMEDGE_API mmedge_status mmedge_segattn_enqueue(const mmedge_segattn* desc, void* workspace,
                                                void* stream);

/* Architectures that CUDA kernels were built for, such as "80,86,87"; "" without CUDA. */
MMEDGE_API const char* mmedge_cuda_architectures(void);

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_KERNELS_H_ */
