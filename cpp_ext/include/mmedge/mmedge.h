/* mmedge's C API: open a bundle, load it on this machine, run it.
 *
 *   mmedge_bundle* bundle;      mmedge_bundle_open("vqa.mmedge", &bundle)
 *   mmedge_pipeline* pipeline;  mmedge_pipeline_load(bundle, NULL, &pipeline)
 *                               mmedge_pipeline_warm_up(pipeline, NULL, 0)
 *                               mmedge_pipeline_run(pipeline, inputs, 2, outputs, 1)   as often as needed
 *                               mmedge_pipeline_close(pipeline), mmedge_bundle_close(bundle)
 *
 * mmedge/mmedge.hpp wraps it for C++17.
 *
 * Memory. Opening, loading and warming up may allocate, start threads and fail. What the rest of this
 * header calls *real-time* does not allocate, lock, log or throw in mmedge's own code; the backend's
 * share is its own. Every tensor's memory belongs to the caller, or to the pipeline until its next
 * call.
 *
 * Threads. A handle may be used by one thread at a time. mmedge_pipeline_clone() gives another thread a
 * handle of its own on the same loaded network.
 *
 * Errors. See mmedge/base.h. After a failed call the handle is as it was before, unless a function says
 * otherwise, and what it would have made is NULL.
 *
 * There is no function to call before the first or after the last one, and no environment variable is
 * read. Structures begin with their size, so that a later version can add fields at their end: make
 * them with the macro beside them.
 */
#ifndef MMEDGE_MMEDGE_H_
#define MMEDGE_MMEDGE_H_

#include "mmedge/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Most axes of a tensor. */
#define MMEDGE_MAX_RANK 8

/* ---- Bundles --------------------------------------------------------------------------------- */

/* An open bundle: its files are mapped, and were checked. */
typedef struct mmedge_bundle mmedge_bundle;

/* Opens a bundle (a folder or a .mmedge file) and checks all of it: layout, manifest, the SHA-256 of
 * every file, graphs, tokenizers. Nothing is unpacked or executed. Who signed it is not checked.
 * MMEDGE_BUNDLE_ERROR: a rule is broken; the message names the file and the rule. */
MMEDGE_API mmedge_status mmedge_bundle_open(const char* path, mmedge_bundle** bundle);

/* What a bundle's signature has to be. */
typedef struct mmedge_open_options {
  uint32_t struct_size;
  const char* const* trusted_keys; /* public keys of Ed25519 in PEM (texts, not paths); NULL: no
                                      signature is verified */
  int32_t trusted_key_count;
  int64_t lowest_version;        /* a release of a lower version is refused; needs keys */
  int64_t now;                   /* seconds since 1970 in UTC, of a source of time that the application
                                    trusts: a release expires by it; -1: the system's clock */
  const char* signature_library; /* path of the library that verifies, libsodium or OpenSSL's libcrypto;
                                    NULL: libsodium beside this library, then the system's libsodium,
                                    then its libcrypto */
} mmedge_open_options;

#define MMEDGE_OPEN_OPTIONS {sizeof(mmedge_open_options), NULL, 0, 0, -1, NULL}

/* As mmedge_bundle_open(), and checks before anything of the manifest is parsed who signed it. With
 * keys, a bundle is refused that is not signed by one of them, or has a signature by one that does not
 * verify. `options` may be NULL. MMEDGE_SIGNATURE_ERROR: the signature is refused, a key cannot be read,
 * or there is no library that verifies. */
MMEDGE_API mmedge_status mmedge_bundle_open_with(const char* path, const mmedge_open_options* options,
                                                 mmedge_bundle** bundle);

/* How far a signature is known to be right. */
typedef enum mmedge_signed {
  MMEDGE_UNSIGNED = 0,   /* the bundle has no signature */
  MMEDGE_UNVERIFIED = 1, /* it has one, which was not checked, since no key was given: anybody may have
                            written it */
  MMEDGE_VERIFIED = 2    /* a trusted key signed it */
} mmedge_signed;

/* What a bundle was signed as. */
typedef struct mmedge_release {
  uint32_t struct_size;
  int32_t verified;   /* an mmedge_signed; what follows is worth as much */
  int64_t version;    /* 0 where it is unsigned, as the next */
  int64_t signed_at;  /* seconds since 1970 in UTC */
  int64_t expires;    /* the same; -1: never */
  int32_t signatures; /* how many it has */
} mmedge_release;

#define MMEDGE_RELEASE {sizeof(mmedge_release), 0, 0, 0, -1, 0}

MMEDGE_API mmedge_status mmedge_bundle_release(const mmedge_bundle* bundle, mmedge_release* release);

/* Signature `index`, in the order in which they were added: the id of its key (the SHA-256 of the 32
 * bytes of the public key in hexadecimal), valid until the bundle is closed, and whether that is a
 * trusted key, so that it was verified. MMEDGE_INVALID: no such index. */
MMEDGE_API mmedge_status mmedge_bundle_signature(const mmedge_bundle* bundle, int32_t index,
                                                 const char** key_id, int32_t* verified);

/* Closes it. Pipelines that were loaded from it go on: they hold what they need. NULL is allowed. */
MMEDGE_API void mmedge_bundle_close(mmedge_bundle* bundle);

/* SHA-256 of the manifest in 64 hexadecimal digits, which stands for the whole bundle. Valid until the
 * bundle is closed, as is the manifest's JSON (docs/reference/bundle.md), of `*size` bytes. */
MMEDGE_API const char* mmedge_bundle_digest(const mmedge_bundle* bundle);
MMEDGE_API const char* mmedge_bundle_manifest(const mmedge_bundle* bundle, size_t* size);

/* Reads what opening leaves for later, and checks it: every file's digest once more, golden samples,
 * labels. MMEDGE_BUNDLE_ERROR: something is not as the manifest declares. */
MMEDGE_API mmedge_status mmedge_bundle_verify(mmedge_bundle* bundle);

/* ---- Loading --------------------------------------------------------------------------------- */

/* A bundle's network, loaded. */
typedef struct mmedge_pipeline mmedge_pipeline;

/* An engine of the application's own: mmedge/backend.h. */
struct mmedge_backend;

typedef struct mmedge_load_options {
  uint32_t struct_size;
  const char* variant;     /* its id, such as "ort-int8-cpu"; NULL: the best that runs here */
  const char* backend;     /* "ort", "openvino" or one of `backends`; NULL: any */
  const char* precision;   /* such as "fp32"; NULL: any */
  const char* device;      /* a target, such as "cpu"; NULL: any that this machine has */
  const char* plan;        /* "whole" or "cut"; NULL: as docs/reference/bundle.md says */
  const char* onnxruntime; /* path of ONNX Runtime's library, or of a folder that holds it; NULL:
                              beside this library, then the system's */
  int32_t threads;         /* most threads of a stage; 0: as docs/reference/bundle.md says */
  int32_t kernels;         /* 1, 0: attention by mmedge's kernels, or not; -1: where measured faster */
  int32_t spin;            /* 1, 0: idle threads stay awake, or not; -1: only those of a single stage */
  int32_t cache;           /* 1: an encoder does not run where its modality holds what it held in the
                              call before; 0: every stage runs */
  int32_t allow_unverified; /* 1: golden samples are not replayed where export could not prove the
                               variant for this kind of machine */
  int32_t allow_non_finite; /* 1: NaN and infinity in inputs are passed on to the network */
  const char* openvino;    /* as `onnxruntime`: of OpenVINO's libopenvino_c */
  const struct mmedge_backend* const* backends; /* further ones, by their names; one with the name of
                                                   libmmedge's own takes its place */
  int32_t backend_count;
} mmedge_load_options;

#define MMEDGE_LOAD_OPTIONS \
  {sizeof(mmedge_load_options), NULL, NULL, NULL, NULL, NULL, NULL, 0, -1, -1, 1, 0, 0, NULL, \
   NULL, 0}

/* Chooses a variant for this machine, loads it, and checks that it computes here what it should.
 * `options` may be NULL. MMEDGE_NO_VARIANT, MMEDGE_INPUT_ERROR (no such variant, plan or device),
 * MMEDGE_BACKEND_ERROR, MMEDGE_ACCURACY_ERROR, MMEDGE_OUT_OF_MEMORY. */
MMEDGE_API mmedge_status mmedge_pipeline_load(mmedge_bundle* bundle,
                                              const mmedge_load_options* options,
                                              mmedge_pipeline** pipeline);

/* Another handle on the same network, for another thread; not warm. */
MMEDGE_API mmedge_status mmedge_pipeline_clone(const mmedge_pipeline* pipeline,
                                               mmedge_pipeline** clone);

/* Frees it. NULL is allowed. */
MMEDGE_API void mmedge_pipeline_close(mmedge_pipeline* pipeline);

/* What was loaded, and why; valid until the pipeline is closed. */
typedef struct mmedge_choice {
  uint32_t struct_size;
  const char* variant;        /* id */
  const char* plan;           /* "whole" or "cut" */
  const char* why_plan;       /* in words */
  const char* backend;        /* name and version of the library that runs it */
  int32_t threads;            /* most threads of a stage; 0: the backend's default */
  int32_t decisions;          /* how many variants the bundle has */
} mmedge_choice;

#define MMEDGE_CHOICE {sizeof(mmedge_choice), NULL, NULL, NULL, NULL, 0, 0}

MMEDGE_API mmedge_status mmedge_pipeline_choice(const mmedge_pipeline* pipeline,
                                                mmedge_choice* choice);

/* The decision on variant `index`, in the manifest's order: its id, whether it could run here, and the
 * reason in words. MMEDGE_INVALID: no such index. */
MMEDGE_API mmedge_status mmedge_pipeline_decision(const mmedge_pipeline* pipeline, int32_t index,
                                                  const char** variant, int32_t* accepted,
                                                  const char** reason);

/* ---- Tensors --------------------------------------------------------------------------------- */

/* What the network takes or gives under one name. */
typedef struct mmedge_tensor_spec {
  uint32_t struct_size;
  const char* name;
  const char* modality; /* of an input; NULL for an output */
  int32_t required;     /* an input: whether a call must bring it */
  int32_t dtype;        /* an mmedge_dtype */
  int32_t rank;
  int64_t shape[MMEDGE_MAX_RANK];         /* -1 where the size is a dimension's */
  const char* dimension[MMEDGE_MAX_RANK]; /* its name; NULL where the size is fixed */
} mmedge_tensor_spec;

#define MMEDGE_TENSOR_SPEC {sizeof(mmedge_tensor_spec), NULL, NULL, 0, 0, 0, {0}, {NULL}}

MMEDGE_API int32_t mmedge_pipeline_input_count(const mmedge_pipeline* pipeline);
MMEDGE_API int32_t mmedge_pipeline_output_count(const mmedge_pipeline* pipeline);
MMEDGE_API mmedge_status mmedge_pipeline_input(const mmedge_pipeline* pipeline, int32_t index,
                                               mmedge_tensor_spec* spec);
MMEDGE_API mmedge_status mmedge_pipeline_output(const mmedge_pipeline* pipeline, int32_t index,
                                                mmedge_tensor_spec* spec);

/* A tensor in C order. */
typedef struct mmedge_tensor {
  const char* name;
  void* data;
  size_t bytes;   /* an input: of all elements, or 0: not stated. An output: what `data` has room for */
  int32_t dtype;  /* an mmedge_dtype */
  int32_t rank;
  int64_t shape[MMEDGE_MAX_RANK];
} mmedge_tensor;

/* ---- Running --------------------------------------------------------------------------------- */

/* Sets aside what calls need and runs the network, so that later calls meet no first time. Call it for
 * each handle before mmedge_pipeline_run(), with inputs of the largest sizes that calls will have:
 * what stands in for an absent modality may not be larger later. With count 0, every dimension has its
 * `opt` size, every input is zeros, and optional modalities are absent in a second run. */
MMEDGE_API mmedge_status mmedge_pipeline_warm_up(mmedge_pipeline* pipeline,
                                                 const mmedge_tensor* inputs, int32_t count);

/* Real-time. Runs the network once.
 *
 * `inputs` are named as the network's inputs, in any order; those of an optional modality may be left
 * out. `outputs` are named as the network's outputs, any of them in any order. An output with `data` is
 * written there, and MMEDGE_TOO_SMALL is returned where `bytes` are too few (shape and dtype say what
 * is needed; other outputs may have been written). One whose `data` is NULL is given the address of the
 * pipeline's own memory, which is valid until the next call of this handle. dtype, rank, shape and
 * bytes are filled in.
 *
 * MMEDGE_INPUT_ERROR: a name, dtype, rank, size, a NaN or infinity where no golden sample has one.
 * MMEDGE_NOT_WARM: see mmedge_pipeline_warm_up(). MMEDGE_BACKEND_ERROR: the engine failed. */
MMEDGE_API mmedge_status mmedge_pipeline_run(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                             int32_t input_count, mmedge_tensor* outputs,
                                             int32_t output_count);

/* Real-time. Forgets what inputs held in the call before, so that the next call runs every stage. */
MMEDGE_API void mmedge_pipeline_forget(mmedge_pipeline* pipeline);

/* ---- State ----------------------------------------------------------------------------------- */

/* What the stages of a network hand to themselves from call to call, such as a recurrent network's
 * memory. Without one, each call begins anew. For handles of one loaded network, one call at a time. */
typedef struct mmedge_state mmedge_state;

/* A new state: the first call begins with the bundle's first values. MMEDGE_INPUT_ERROR: the bundle
 * keeps none between calls. */
MMEDGE_API mmedge_status mmedge_state_create(const mmedge_pipeline* pipeline, mmedge_state** state);

/* Another state of the same content. What happens to one does not change the other. */
MMEDGE_API mmedge_status mmedge_state_copy(const mmedge_state* state, mmedge_state** copy);

/* Sets memory aside in a state for calls as large as `pipeline` is warm for; a new state has it. Between
 * two calls that have the state. */
MMEDGE_API mmedge_status mmedge_state_reserve(mmedge_state* state, const mmedge_pipeline* pipeline);

/* Forgets everything. */
MMEDGE_API void mmedge_state_reset(mmedge_state* state);

/* Tokens that the stage of a loop has taken; without a loop, calls that have left their state in it. */
MMEDGE_API int64_t mmedge_state_position(const mmedge_state* state);

/* Frees it. NULL is allowed. */
MMEDGE_API void mmedge_state_close(mmedge_state* state);

/* Real-time. As mmedge_pipeline_run(): stages begin with what `state` holds, and leave their new state
 * in it. After a failed call it is as it was; MMEDGE_BACKEND_ERROR: a stage made NaN of its state. An
 * output without a buffer of the caller's is also given up by what changes the state, and is not to be
 * written to. `state` may be NULL. */
MMEDGE_API mmedge_status mmedge_pipeline_run_state(mmedge_pipeline* pipeline,
                                                   const mmedge_tensor* inputs, int32_t input_count,
                                                   mmedge_tensor* outputs, int32_t output_count,
                                                   mmedge_state* state);

/* ---- Loops ----------------------------------------------------------------------------------- */

/* A bundle with a loop `generate` makes tokens one after another; one with a loop `denoise` makes an
 * array from noise. mmedge_pipeline_run() takes all steps with the bundle's options. These functions
 * take them one by one:
 *
 *   mmedge_loop_begin(pipeline, inputs, 2, &options, NULL)
 *   while (mmedge_loop_step(pipeline, &step) == MMEDGE_OK && step.taken) ...
 *   mmedge_loop_result(pipeline, finish, rows, outputs, 2)
 *
 * A handle has one loop at a time. Tokens are numbers; mmedge/text.h makes them of text, and text of
 * them. */

/* Why a loop, or a row of it, has no more steps; 0: it has. */
typedef enum mmedge_finish {
  MMEDGE_FINISH_NONE = 0,
  MMEDGE_FINISH_STOP = 1,     /* a stop token */
  MMEDGE_FINISH_LIMIT = 2,    /* as many tokens as the limit, or as the states take */
  MMEDGE_FINISH_SCHEDULE = 3, /* all steps of a loop `denoise` */
  MMEDGE_FINISH_DEADLINE = 4,
  MMEDGE_FINISH_CANCEL = 5
} mmedge_finish;

/* A loop `denoise` takes `seed`, `noise`, `deadline_ms` and `cached`, and refuses the others. */
typedef struct mmedge_loop_options {
  uint32_t struct_size;
  int64_t limit;          /* most tokens; -1: the bundle's */
  const int64_t* stop;    /* tokens that end a row, and are not in the result */
  int32_t stop_count;     /* -1: the bundle's */
  uint64_t seed;          /* of all drawing */
  double temperature;     /* 0: the best token; -1: the bundle's */
  int64_t top_k;          /* 0: all; -1: the bundle's */
  double top_p;           /* -1: the bundle's */
  double deadline_ms;     /* from mmedge_loop_begin() on; after it no run begins; -1: none */
  const int64_t* forced;  /* [forced_rows, forced_count]: what the first choices are, whatever the
                             scores. It has to stay as it is until the loop has ended. NULL: none */
  int64_t forced_rows;
  int64_t forced_count;
  const mmedge_tensor* noise; /* of `denoise`: the first noise, float32, before it is scaled, whose name
                             is not looked at; NULL: normal numbers of the seed */
  int32_t cached;         /* 0: encoders run again even where their modality holds what it held, and
                             first tokens even where an earlier call began with them */
} mmedge_loop_options;

#define MMEDGE_LOOP_OPTIONS \
  {sizeof(mmedge_loop_options), -1, NULL, -1, 0, -1.0, -1, -1.0, -1.0, NULL, 0, 0, NULL, 1}

/* Sets memory aside for calls of `rows` rows that begin with `tokens` tokens each: the bundle's, or
 * those that a state has left over, and the caller's. Of a loop `denoise` the product counts: elements
 * of the latent. Warming up does so for its inputs. */
MMEDGE_API mmedge_status mmedge_loop_reserve(mmedge_pipeline* pipeline, int64_t rows,
                                             int64_t tokens);

/* Real-time. Runs the stages before the loop, and begins it. What was begun before is given up, and its
 * state is as it was. `options` and `state` may be NULL. With a state, the loop goes on from there, and
 * leaves its own there when it has ended or is cancelled; the state may not be closed before.
 * MMEDGE_INPUT_ERROR: no loop, or an input, an option or the state does not fit, or a loop that has not
 * ended has the state. MMEDGE_NOT_WARM. */
MMEDGE_API mmedge_status mmedge_loop_begin(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                           int32_t input_count, const mmedge_loop_options* options,
                                           mmedge_state* state);

typedef struct mmedge_loop_step_info {
  uint32_t struct_size;
  int32_t taken;         /* 1: there was a step; 0: the loop has ended, and nothing below is set */
  int32_t done;          /* no further step comes */
  int32_t rows;
  int64_t index;         /* which step, from 0 */
  const int64_t* tokens; /* one for each row; valid until the next step, as is the rest */
  const uint8_t* active; /* for each row, whether its token counts: it is no stop token, and of no row
                            that ended before */
  const void* scores;    /* what the network gave for the choice: `vocabulary` numbers for each row, row
                            i `scores_stride` elements after row i - 1 */
  int32_t scores_dtype;  /* an mmedge_dtype */
  int64_t vocabulary;
  int64_t scores_stride;
  const float* latent;   /* of `denoise`, which sets neither rows, tokens, active nor scores: the latent
                            after the step */
  int64_t latent_elements;
  int32_t latent_rank;
  int64_t latent_shape[MMEDGE_MAX_RANK];
} mmedge_loop_step_info;

#define MMEDGE_LOOP_STEP_INFO \
  {sizeof(mmedge_loop_step_info), 0, 0, 0, 0, NULL, NULL, NULL, 0, 0, 0, NULL, 0, 0, {0}}

/* Real-time. Takes the next step. After a failure the loop is given up, and the state is as it was. */
MMEDGE_API mmedge_status mmedge_loop_step(mmedge_pipeline* pipeline, mmedge_loop_step_info* step);

/* Real-time. Takes no more steps. A state holds what there is so far. */
MMEDGE_API void mmedge_loop_cancel(mmedge_pipeline* pipeline);

/* Real-time. What the loop gives; one that has steps left is cancelled. `finish` (an mmedge_finish for
 * each of up to `finish_count` rows; of `denoise` one) may be NULL. `outputs` as of
 * mmedge_pipeline_run(). Of `generate`: `tokens`, int64 [rows, longest], filled up with the first stop
 * token, and `lengths`, int64 [rows]. Of `denoise`: `latent`, or what the decoder makes of it; if not all
 * steps were taken, of the estimate of the last one. And the network's outputs that no stage of the loop
 * takes. mmedge_pipeline_output() lists all of them. MMEDGE_TIMEOUT: the deadline passed before there
 * was an estimate; MMEDGE_INPUT_ERROR: there is none for another reason. */
MMEDGE_API mmedge_status mmedge_loop_result(mmedge_pipeline* pipeline, int32_t* finish,
                                            int32_t finish_count, mmedge_tensor* outputs,
                                            int32_t output_count);

/* ---- Verification ---------------------------------------------------------------------------- */

/* What golden samples said of one output. */
typedef struct mmedge_verified_output {
  uint32_t struct_size;
  const char* stage;  /* "(whole network)" where it is the network's; valid until the pipeline's next
                         verification */
  const char* output;
  double max_abs;     /* largest difference */
  double limit_used;  /* largest share of the tolerance that an element takes; it passes up to 1 */
  double max_rel;     /* largest difference as a share of the scale of its place */
  double scale;       /* what the difference that takes most of its limit is held against */
  const char* where;  /* what has that scale, in words; "" for the whole tensor */
} mmedge_verified_output;

#define MMEDGE_VERIFIED_OUTPUT {sizeof(mmedge_verified_output), NULL, NULL, 0, 0, 0, 0, NULL}

/* Replays all golden samples: every stage of the loaded plan on the tensors that enter it, and the
 * whole network. `samples` and `outputs`, which may be NULL, get the number of samples, and of outputs
 * that were compared. MMEDGE_ACCURACY_ERROR: an output is off; the message names the first.
 * MMEDGE_BUNDLE_ERROR: there are no samples. */
MMEDGE_API mmedge_status mmedge_pipeline_verify(mmedge_pipeline* pipeline, int32_t* samples,
                                                int32_t* outputs);

/* One output of the last verification, in the order of the stages. MMEDGE_INVALID: no such index. */
MMEDGE_API mmedge_status mmedge_pipeline_verified_output(const mmedge_pipeline* pipeline,
                                                         int32_t index,
                                                         mmedge_verified_output* output);

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_MMEDGE_H_ */
