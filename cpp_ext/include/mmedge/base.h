/* What all headers of mmedge's C API share: status codes, element types, errors in words. */
#ifndef MMEDGE_BASE_H_
#define MMEDGE_BASE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(MMEDGE_BUILD)
#define MMEDGE_API __attribute__((visibility("default")))
#else
#define MMEDGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the structures of the C API. It changes when one of them does; a caller compares it
 * with mmedge_abi_version() of the library that it loaded. */
#define MMEDGE_ABI_VERSION 1

/* ---- Status ----------------------------------------------------------------------------------
 *
 * A function that can fail returns one; mmedge_last_error() then says what was expected, what was
 * found and what to do.
 *
 * 0          done.
 * 1 to 99    the attention kernels (mmedge/kernels.h).
 * 100 to 199 opening and loading a bundle.
 * 200 to 299 running one.
 */
typedef enum mmedge_status {
  MMEDGE_OK = 0,

  MMEDGE_INVALID = 1,      /* arguments contradict each other or the header. Nothing was written. */
  MMEDGE_UNSUPPORTED = 2,  /* sound arguments, but this library or processor has no code for them */
  MMEDGE_NO_DEVICE = 3,    /* no usable GPU, or the library was built without CUDA */
  MMEDGE_DEVICE_ERROR = 4, /* the CUDA runtime reported an error; the message has its text */

  MMEDGE_BUNDLE_ERROR = 100,   /* the bundle is malformed, altered, incomplete or of another schema */
  MMEDGE_NO_VARIANT = 101,     /* no variant of the bundle can run here; its decisions say why */
  MMEDGE_BACKEND_ERROR = 102,  /* the backend could not be loaded, or failed */
  MMEDGE_ACCURACY_ERROR = 103, /* golden samples gave other outputs than they should */
  MMEDGE_OUT_OF_MEMORY = 104,
  MMEDGE_SIGNATURE_ERROR = 105, /* the bundle's signature is missing, wrong, expired, of no trusted key
                                   or of too old a release, or it cannot be verified here */

  MMEDGE_INPUT_ERROR = 200, /* a value does not fit what the bundle declares. Nothing was run. */
  MMEDGE_NOT_WARM = 201,    /* the call needs more memory than mmedge_pipeline_warm_up() set aside */
  MMEDGE_TOO_SMALL = 202,   /* the caller's buffer is too small; its tensor says what is needed */
  MMEDGE_TIMEOUT = 203      /* a deadline passed before a loop `denoise` had an estimate, or a wait
                               for a result of a stream */
} mmedge_status;

/* Element types. Kernels take the first four: the CPU kernel MMEDGE_F32 alone, CUDA kernels MMEDGE_F16
 * and MMEDGE_BF16 for queries and outputs, and these and MMEDGE_I8 for keys and values. Tensors of
 * a bundle have any but MMEDGE_BF16. */
typedef enum mmedge_dtype {
  MMEDGE_F32 = 0,
  MMEDGE_F16 = 1,
  MMEDGE_BF16 = 2,
  MMEDGE_I8 = 3,
  MMEDGE_BOOL = 4, /* one byte, 0 or 1 */
  MMEDGE_F64 = 5,
  MMEDGE_I16 = 6,
  MMEDGE_I32 = 7,
  MMEDGE_I64 = 8,
  MMEDGE_U8 = 9,
  MMEDGE_U16 = 10,
  MMEDGE_U32 = 11,
  MMEDGE_U64 = 12
} mmedge_dtype;

/* Text about the last call of this thread that did not return MMEDGE_OK; "" before any. It is valid
 * until the thread's next call. */
MMEDGE_API const char* mmedge_last_error(void);

/* MMEDGE_ABI_VERSION of the library. */
MMEDGE_API int mmedge_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_BASE_H_ */
