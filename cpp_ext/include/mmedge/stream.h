/* mmedge's C API for streams: sensors push at their own rates, fused results come out.
 *
 *   mmedge_stream* stream;  mmedge_stream_open(pipeline, &options, &stream)
 *   in a loop:              mmedge_stream_push(stream, "image", &frame, 1, &stamp, NULL)
 *                           mmedge_stream_poll(stream)
 *                           while (mmedge_stream_take(stream, 0, &result) == MMEDGE_OK && result.available)
 *                             mmedge_stream_output(stream, &scores)
 *   mmedge_stream_close(stream)
 *
 * docs/reference/streams.md says what each option, age, drop and reason means. Making a stream sets
 * aside all memory that it needs, and may fail; the rest of this header is real-time (mmedge/mmedge.h
 * says what that means), but for closing, and for wait, which is there to block. With threads, calls take
 * the short locks that are described below.
 *
 * On the caller's thread. Without `threads` in its options a stream has no thread: encoders and fusion
 * run inside push and poll, on the thread that calls them. Call it from one thread at a time.
 *
 * With threads of its own. With `threads` each modality that has an encoder has a thread, and ticks and
 * fusion have one: sensors' threads push, and another takes the results:
 *
 *   any thread:  mmedge_stream_push(stream, "image", &frame, 1, &stamp, NULL)
 *   one thread:  while (mmedge_stream_wait(stream, 0.5) == MMEDGE_OK) {
 *                  mmedge_stream_take(stream, 0, &result)
 *                  mmedge_stream_output(stream, &scores)
 *                }
 *   at the end:  mmedge_stream_stop(stream), join the threads above, mmedge_stream_close(stream)
 *
 *   - push, forget, reset, poll, next_time, dropped, counters and stop: from any threads, at any time.
 *   - wait, take, output and result_modality: one thread at a time, the reader.
 *   - A push never waits for a stage. A mutex guards the accounts; it is held for them alone, some
 *     microseconds, and lends its holder the priority of who waits. Each modality has another one, held
 *     while its push checks and copies its value: pushes of one modality come one after the other.
 *   - Opening waits for the threads to begin. A stream is its process's: a fork has none of its threads.
 *   - A fault on a thread (a clock that gives nothing of use for a second, an exception in on_result)
 *     ends the stream: each further call gives MMEDGE_BACKEND_ERROR, and says why. A stage that fails is
 *     none: its result or its modality says so.
 *
 * Of a bundle with a loop each result has what the loop gives, under the names that mmedge/mmedge.h
 * has for it; encoders go on while it runs. On the caller's thread its steps are taken in poll, as many
 * as come due. The states of stages are the stream's own.
 */
#ifndef MMEDGE_STREAM_H_
#define MMEDGE_STREAM_H_

#include "mmedge/mmedge.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mmedge_stream mmedge_stream;

/* Which sample of a modality stands for it at a given time. */
typedef enum mmedge_policy {
  MMEDGE_LATEST = 0,
  MMEDGE_HOLD = 1,
  MMEDGE_EXACT = 2,
  MMEDGE_INTERPOLATE = 3,
  MMEDGE_WINDOW = 4
} mmedge_policy;

/* How a stream uses one modality. A negative number of milliseconds, a negative rate or margin: none is
 * given. */
typedef struct mmedge_stream_modality {
  uint32_t struct_size;
  const char* modality;
  int32_t policy;        /* an mmedge_policy */
  double max_age_ms;     /* negative: the bundle's */
  double wait_ms;        /* of MMEDGE_EXACT and MMEDGE_INTERPOLATE */
  double tolerance_ms;   /* of MMEDGE_EXACT */
  double rate_hz;        /* of MMEDGE_WINDOW */
  double max_gap_ms;     /* of MMEDGE_WINDOW */
  int64_t length;        /* of MMEDGE_WINDOW: rows */
  int64_t hop;           /* of MMEDGE_WINDOW: rows */
  int32_t finite;        /* 1: NaN and infinity are dropped */
  int32_t frozen_after;  /* equal samples in a row that count as frozen; 0: off; -1: by the rate */
  double range_margin;   /* share of the range at export that a sample may leave it by; negative: off */
} mmedge_stream_modality;

#define MMEDGE_STREAM_MODALITY \
  {sizeof(mmedge_stream_modality), NULL, MMEDGE_LATEST, -1, 0, 0, -1, -1, 0, 1, 1, -1, 0.5}

/* The largest size of a dynamic dimension, for which memory is set aside: needed where the bundle
 * states none. */
typedef struct mmedge_size {
  const char* dimension;
  int64_t size;
} mmedge_size;

/* Seconds after which the state of a modality's encoder, or of a fusion stage, begins anew. */
typedef struct mmedge_reset {
  const char* name; /* of the modality or the stage; NULL: of all */
  double after_s;
} mmedge_reset;

struct mmedge_result;

/* Threads of a stream. */
typedef struct mmedge_stream_threads {
  uint32_t struct_size;
  const char* name;    /* they are called "NAME camera", "NAME fusion", "NAME results", of which the
                          system keeps 15 characters; NULL: "mmedge" */
  const int32_t* cpus; /* the processors on which they may run */
  int32_t cpu_count;   /* 0: those of the caller */
  int32_t priority;    /* of SCHED_FIFO, 1 to 99; 0: that of the caller. Threads of ONNX Runtime have
                          neither: load the pipeline with threads = 1, and stages run on these. */
  /* Called for each result, oldest first, on a thread of its own; it may ask for outputs and
   * modalities of the result, which is valid until it returns, and call what any thread may. Results
   * that come meanwhile wait, up to `keep`: it should not block. It must not throw, and not close the
   * stream (stop may be called). With it wait and take are refused. NULL: the reader takes results. */
  void (*on_result)(void* context, mmedge_stream* stream, const struct mmedge_result* result);
  void* context;
} mmedge_stream_threads;

#define MMEDGE_STREAM_THREADS {sizeof(mmedge_stream_threads), NULL, NULL, 0, 0, NULL, NULL}

typedef struct mmedge_stream_options {
  uint32_t struct_size;
  const char* trigger;  /* the modality whose samples make results, or "any"; NULL: trigger_hz */
  double trigger_hz;    /* results a second, by the clock; 0: none is given */
  double deadline_ms;   /* from the trigger to the result; 0: none */
  const mmedge_stream_modality* modalities; /* those that differ from the defaults */
  int32_t modality_count;
  int64_t depth;         /* samples of a modality that may wait */
  int64_t keep;          /* results that may wait */
  double future_s;       /* how far ahead of the clock a stamp may be, seconds */
  int64_t recover_after; /* sound samples after which a modality counts as present again */
  const mmedge_size* largest;
  int32_t largest_count;
  double (*clock)(void* context); /* seconds that never go back; NULL: CLOCK_MONOTONIC. With threads
                                     several call it, one at a time, with a mutex held; ticks and ends
                                     of waits are looked for every 5 ms. */
  void* clock_context;
  const mmedge_stream_threads* threads; /* NULL: none; stages run in push and poll */
  const mmedge_loop_options* loop_options; /* of each run of the loop; NULL: the bundle's. Its deadline is
                                              the stream's, and `cached` has no meaning */
  int32_t cancel; /* what a newer trigger does while a loop runs: 0: it waits for the end; 1: it ends the
                     loop after the step that runs */
  const mmedge_reset* resets; /* of states */
  int32_t reset_count;        /* 0: they never begin anew by themselves */
} mmedge_stream_options;

#define MMEDGE_STREAM_OPTIONS \
  {sizeof(mmedge_stream_options), NULL, 0, 0, NULL, 0, 64, 16, 1.0, 3, NULL, 0, NULL, NULL, NULL, \
   NULL, 0, NULL, 0}

/* Makes a stream on the plan that is loaded: load the pipeline with plan "cut" so that an encoder runs
 * when its sensor delivers, and once. The pipeline stays usable, and may be closed before.
 * MMEDGE_INPUT_ERROR: an option that does not fit, a dimension without largest size.
 * MMEDGE_BACKEND_ERROR: the system gives no thread, or does not permit its priority or processors. */
MMEDGE_API mmedge_status mmedge_stream_open(mmedge_pipeline* pipeline,
                                            const mmedge_stream_options* options,
                                            mmedge_stream** stream);

/* Frees it, after the stages that run and calls that other threads are in have ended; no call may begin
 * after this. In on_result it only fails the stream. NULL is allowed. */
MMEDGE_API void mmedge_stream_close(mmedge_stream* stream);

/* Ends it: samples that are pending count as dropped by "closed", waits end, and calls other than for
 * counters give MMEDGE_BACKEND_ERROR from now on. Returns at once. What was taken stays. */
MMEDGE_API void mmedge_stream_stop(mmedge_stream* stream);

/* A sample of a modality: a tensor for each of its inputs, by name, which are copied. `stamp`: when it
 * was measured, seconds of the stream's clock; NULL: now. `*sequence`, unless NULL, is its number in the
 * modality, from 0. MMEDGE_INPUT_ERROR: it does not fit, and nothing changed. What is wrong with a
 * sample that fits is no error: it is dropped for a reason, and counted. MMEDGE_BACKEND_ERROR: the stream
 * was stopped, or failed. */
MMEDGE_API mmedge_status mmedge_stream_push(mmedge_stream* stream, const char* modality,
                                            const mmedge_tensor* inputs, int32_t count,
                                            const double* stamp, int64_t* sequence);

/* Withdraws the samples of a modality. */
MMEDGE_API mmedge_status mmedge_stream_forget(mmedge_stream* stream, const char* modality);

/* Begins as if nothing had been pushed; counters go on. */
MMEDGE_API mmedge_status mmedge_stream_reset(mmedge_stream* stream);

/* Does what is due by now. With threads there is nothing to do: it says whether they are well. */
MMEDGE_API mmedge_status mmedge_stream_poll(mmedge_stream* stream);

/* When something is due next unless a sample comes, seconds of the stream's clock; infinity: nothing. */
MMEDGE_API double mmedge_stream_next_time(const mmedge_stream* stream);

/* Waits for a result to take, up to `timeout_s` seconds; negative: as long as it takes. For streams with
 * threads. MMEDGE_TIMEOUT: there is none; the text says what came. MMEDGE_BACKEND_ERROR: the stream was
 * stopped, or failed. */
MMEDGE_API mmedge_status mmedge_stream_wait(mmedge_stream* stream, double timeout_s);

typedef struct mmedge_result {
  uint32_t struct_size;
  int32_t available;   /* 0: there is none, and the rest says nothing */
  int32_t has_outputs; /* 0: `reason` says why */
  int32_t fresh;       /* whether the outputs were made for this trigger */
  int32_t met;         /* 1, 0: whether the deadline was met; -1: there is none */
  double t;            /* of the trigger, seconds */
  double made;         /* when it was made */
  double latency;      /* seconds */
  double lateness;     /* seconds */
  double outputs_t;    /* the trigger that outputs were made for, where they are not fresh; else NaN */
  const char* trigger; /* the modality whose sample it was made for; NULL: a tick */
  const char* reason;  /* in words; "" where there is nothing to say */
} mmedge_result;

#define MMEDGE_RESULT {sizeof(mmedge_result), 0, 0, 0, -1, 0, 0, 0, 0, 0, NULL, ""}

/* Takes the oldest result, or with `latest` the newest, passing over the others. It, its texts and its
 * outputs are valid until the next call of the stream; with threads, until the next take. */
MMEDGE_API mmedge_status mmedge_stream_take(mmedge_stream* stream, int32_t latest,
                                            mmedge_result* result);

/* An output of the result that was taken: as mmedge_pipeline_run() gives one.
 * MMEDGE_INPUT_ERROR: no such output, or the result has none. */
MMEDGE_API mmedge_status mmedge_stream_output(mmedge_stream* stream, mmedge_tensor* output);

/* Why each row of the result's loop ended, an mmedge_finish each: up to `count` of them, and in `*rows`
 * how many there are; 0: the bundle has no loop. MMEDGE_INPUT_ERROR: the result has no outputs. */
MMEDGE_API mmedge_status mmedge_stream_finish(mmedge_stream* stream, int32_t* finish, int32_t count,
                                              int32_t* rows);

/* A fusion stage with state, in the plan's order, and what the result says of it, or "".
 * MMEDGE_INVALID: no such one. */
MMEDGE_API mmedge_status mmedge_stream_result_stage(mmedge_stream* stream, int32_t index,
                                                    const char** stage, const char** note);

/* What the result that was taken says of a modality, by its place in the manifest. */
typedef struct mmedge_result_modality {
  uint32_t struct_size;
  const char* modality;
  double age;          /* seconds at the trigger; NaN: a stand-in was used */
  int32_t samples;     /* how many went into it */
  int64_t sequence;    /* of the last of them; -1: none */
  double stamp;        /* of the last of them; NaN: none */
  const char* absent;  /* why a stand-in was used; "" where it was present */
  const char* note;    /* what else there is to say, or "" */
} mmedge_result_modality;

#define MMEDGE_RESULT_MODALITY {sizeof(mmedge_result_modality), NULL, 0, 0, -1, 0, "", ""}

MMEDGE_API mmedge_status mmedge_stream_result_modality(mmedge_stream* stream, int32_t index,
                                                       mmedge_result_modality* modality);

/* Samples of a modality that were dropped so far for a reason, such as "too_old"
 * (docs/reference/streams.md lists them); `reason` NULL: for any. MMEDGE_INVALID: no such one. */
MMEDGE_API mmedge_status mmedge_stream_dropped(mmedge_stream* stream, const char* modality,
                                               const char* reason, uint64_t* count);

typedef struct mmedge_stream_health {
  uint32_t struct_size;
  int64_t triggers, results, stale, empty, deadline_misses, results_dropped;
  double latency_p95;    /* seconds; NaN before there is one */
  int64_t clock_jumps;   /* how often the stream's clock was set */
  int64_t clock_glitches; /* its readings that were not used */
  int64_t state_resets;  /* how often states of fusion stages began anew by themselves */
} mmedge_stream_health;

#define MMEDGE_STREAM_HEALTH {sizeof(mmedge_stream_health), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

MMEDGE_API mmedge_status mmedge_stream_counters(mmedge_stream* stream,
                                                mmedge_stream_health* health);

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_STREAM_H_ */
