/* An engine of the application's own, as a table of functions: what runs the stages of a bundle in
 * place of ONNX Runtime or OpenVINO.
 *
 * A variant of a bundle names its backend; mmedge_load_options.backends brings those that libmmedge
 * does not have, or takes the place of one that it has. libmmedge checks the bundle, chooses the
 * variant, joins the stages, and replays the golden samples when it loads, always, since no export
 * has seen this engine: what it computes has to lie within the bundle's tolerance.
 *
 * Calls. `open_stage` is called once for each stage, `make_slot` once for each handle of a pipeline
 * and stage. Slots of one stage may run at the same time, on threads of their own; a slot is called by
 * one thread at a time. For each call of a pipeline: `set_input` for inputs whose address or shape is
 * new, `run`, `output` for each output. From `set_input` on, none of them may throw; what they
 * allocate is the engine's share of a call.
 *
 * Errors. A function that returns another status than MMEDGE_OK has failed; its status is not looked
 * at. `message` is then called on the same thread, and the caller gets MMEDGE_BACKEND_ERROR with that
 * text behind stage, variant and the engine's name.
 */
#ifndef MMEDGE_BACKEND_H_
#define MMEDGE_BACKEND_H_

#include "mmedge/mmedge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A file beside a graph, under the name that the graph has for it. */
typedef struct mmedge_stage_file {
  const char* name;
  const void* data;
  size_t bytes;
} mmedge_stage_file;

/* A stage that is to be loaded. What it points to is valid until `open_stage` returns, but `graph` and
 * the data of `files`, which are mapped, and stay as long as the stage. */
typedef struct mmedge_stage_source {
  uint32_t struct_size;
  const char* stage;              /* its name */
  const char* variant;            /* id of the variant */
  const char* target;             /* of the variant, such as "cpu" */
  const char* precision;
  const char* path;               /* of the stage's file in this variant, other files of it beside it;
                                     NULL: the bundle is a zip, and the file is `graph` */
  const void* graph;
  size_t graph_bytes;
  const mmedge_stage_file* files; /* with `graph`: weights of an ONNX graph */
  int32_t file_count;
  const mmedge_tensor_spec* inputs; /* as the manifest declares them; their places are the indices that
                                       the functions of a slot take */
  int32_t input_count;
  const mmedge_tensor_spec* outputs;
  int32_t output_count;
  int32_t threads;     /* most threads that the stage is worth; 0: as the engine likes */
  int32_t alone;       /* 1: it has the processor to itself; 0: stages take turns on it */
  double run_timeout_s; /* most seconds of a run; 0: no limit. Only where `limits_runs` is set */
} mmedge_stage_source;

typedef struct mmedge_backend {
  uint32_t struct_size;
  const char* name; /* as variants have it, such as "tensorrt" */
  void* user;       /* handed to the functions that take one */
  const char* const* targets; /* of variants that it runs here; NULL: "cpu" alone */
  int32_t target_count;
  int32_t limits_runs; /* 1: it ends a run after run_timeout_s */

  /* Version of the engine. A variant that needs one version is chosen only where it is this one. */
  const char* (*version)(void* user);
  /* Why it does not run here, and what to do; NULL: it does. May be NULL itself. */
  const char* (*missing)(void* user);
  /* What failed in the last call of this thread that did. */
  const char* (*message)(void* user);

  /* Loads a stage. */
  mmedge_status (*open_stage)(void* user, const mmedge_stage_source* source, void** stage);
  /* Its slots have ended. */
  void (*close_stage)(void* user, void* stage);

  /* Inputs and outputs of one thread's runs. */
  mmedge_status (*make_slot)(void* user, void* stage, void** slot);
  void (*close_slot)(void* user, void* slot);
  /* Take this tensor, which is read in each run where it lies, until another is set. It may be written
   * to between runs, and is never to be written by the engine. Its name is NULL. */
  mmedge_status (*set_input)(void* user, void* slot, int32_t index, const mmedge_tensor* tensor);
  /* Runs once. All inputs are set. */
  mmedge_status (*run)(void* user, void* slot);
  /* Where the last run left an output: data, dtype, rank and shape are to be set. The data stay until
   * the next run of the slot. */
  mmedge_status (*output)(void* user, void* slot, int32_t index, mmedge_tensor* tensor);
} mmedge_backend;

#define MMEDGE_BACKEND \
  {sizeof(mmedge_backend), NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
   NULL, NULL}

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_BACKEND_H_ */
