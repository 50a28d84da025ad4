/* An application with an engine of its own, which knows the two networks of the test by heart.
 *
 * `own_backend BUNDLE NAME FAULT`: loads the bundle with the engine under NAME, runs it three times and
 * prints what comes. FAULT is what the engine does wrong, or "none". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mmedge/backend.h"

#define MOST 8

/* What the engine is told to do wrong, and what it says of it. */
static const char* fault = "none";
static char reason[128];
static int stages = 0, slots = 0, runs = 0;

typedef struct stage {
  char name[16];
  int32_t inputs, outputs;
  double ids_weight; /* of the sums, from the file of the stage */
} stage;

typedef struct slot {
  const stage* stage;
  mmedge_tensor inputs[MOST];
  float outputs[2][64];
  int64_t rows, columns;
} slot;

static int is_fault(const char* name) { return strcmp(fault, name) == 0; }

static mmedge_status refuse(const char* text) {
  snprintf(reason, sizeof reason, "%s", text);
  return MMEDGE_UNSUPPORTED;
}

static const char* version(void* user) { return user; }
static const char* missing(void* user) {
  (void)user;
  return is_fault("missing") ? "the toy's chip is not here; plug it in" : NULL;
}
static const char* message(void* user) {
  (void)user;
  return is_fault("silent") ? NULL : reason;
}

static size_t read_file(const mmedge_stage_source* source, char* text, size_t room) {
  size_t size = 0;
  if (source->path == NULL) {
    size = source->graph_bytes < room ? source->graph_bytes : room;
    memcpy(text, source->graph, size);
  } else {
    FILE* file = fopen(source->path, "rb");
    if (file == NULL) return 0;
    size = fread(text, 1, room, file);
    fclose(file);
  }
  return size;
}

static mmedge_status open_stage(void* user, const mmedge_stage_source* source, void** out) {
  (void)user;
  if (is_fault("open")) return refuse("the toy does not open");
  if (source->struct_size != sizeof *source) return refuse("another mmedge");
  stage* made = calloc(1, sizeof *made);
  snprintf(made->name, sizeof made->name, "%s", source->stage);
  made->inputs = source->input_count;
  made->outputs = source->output_count;
  char text[64] = {0};
  if (read_file(source, text, sizeof text - 1) == 0) return refuse("no file");
  made->ids_weight = strncmp(text, "toy ", 4) == 0 ? atof(text + 4) : 10.0;
  printf("stage %s: %s of %s for %s, %d files, threads %d, alone %d, in memory %d:", made->name,
         source->variant, source->precision, source->target, source->file_count, source->threads,
         source->alone, source->path == NULL);
  for (int32_t i = 0; i < source->input_count; ++i) {
    printf(" %s/%d/%d", source->inputs[i].name, source->inputs[i].dtype, source->inputs[i].rank);
  }
  for (int32_t i = 0; i < source->output_count; ++i) printf(" >%s", source->outputs[i].name);
  printf("\n");
  ++stages;
  *out = made;
  return MMEDGE_OK;
}

static void close_stage(void* user, void* held) {
  (void)user;
  --stages;
  free(held);
}

static mmedge_status make_slot(void* user, void* held, void** out) {
  (void)user;
  if (is_fault("slot")) return refuse("the toy makes no slot");
  slot* made = calloc(1, sizeof *made);
  made->stage = held;
  ++slots;
  *out = made;
  return MMEDGE_OK;
}

static void close_slot(void* user, void* held) {
  (void)user;
  --slots;
  free(held);
}

static mmedge_status set_input(void* user, void* held, int32_t index, const mmedge_tensor* tensor) {
  (void)user;
  slot* self = held;
  if (is_fault("input")) return refuse("the toy takes no input");
  if (index < 0 || index >= self->stage->inputs) return refuse("no such input");
  self->inputs[index] = *tensor;
  return MMEDGE_OK;
}

static double element(const mmedge_tensor* tensor, int64_t i) {
  switch (tensor->dtype) {
    case MMEDGE_F32: return ((const float*)tensor->data)[i];
    case MMEDGE_I64: return (double)((const int64_t*)tensor->data)[i];
    default: return ((const uint8_t*)tensor->data)[i]; /* bool and uint8 */
  }
}

static double row_sum(const mmedge_tensor* tensor, int64_t row) {
  int64_t width = 1;
  for (int32_t axis = 1; axis < tensor->rank; ++axis) width *= tensor->shape[axis];
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += element(tensor, row * width + i);
  return sum;
}

static mmedge_status run(void* user, void* held) {
  (void)user;
  slot* self = held;
  const mmedge_tensor* in = self->inputs;
  if (++runs > 12 && is_fault("run")) return refuse("the toy is tired");
  if (is_fault("silent")) return MMEDGE_UNSUPPORTED;
  self->rows = in[0].shape[0];
  self->columns = 1;
  if (strcmp(self->stage->name, "net") == 0) { /* x, gain, h: a filter */
    self->columns = in[0].shape[1];
    for (int64_t i = 0; i < self->rows * self->columns; ++i) {
      const float x = (float)element(&in[0], i), gain = (float)element(&in[1], i);
      const float h = (float)element(&in[2], i);
      self->outputs[0][i] = gain * (x + h);
      self->outputs[1][i] = h * 0.5f + x;
    }
    return MMEDGE_OK;
  }
  for (int64_t row = 0; row < self->rows; ++row) {
    double sum = row_sum(&in[0], row);
    if (strcmp(self->stage->name, "fusion") == 0) { /* seen, ids, mask, pcm, state */
      sum += self->stage->ids_weight * row_sum(&in[1], row) + 100 * row_sum(&in[2], row) +
             row_sum(&in[3], row) + row_sum(&in[4], row);
    }
    self->outputs[0][row] = (float)(is_fault("wrong") ? sum + 1 : sum);
  }
  return MMEDGE_OK;
}

static mmedge_status output(void* user, void* held, int32_t index, mmedge_tensor* tensor) {
  (void)user;
  slot* self = held;
  if (is_fault("output")) return refuse("the toy keeps its output");
  if (index < 0 || index >= self->stage->outputs) return refuse("no such output");
  tensor->data = self->outputs[index];
  tensor->dtype = is_fault("dtype") ? MMEDGE_I32 : MMEDGE_F32;
  tensor->rank = is_fault("rank") ? 9 : 2;
  tensor->shape[0] = is_fault("size") ? -1 : self->rows;
  tensor->shape[1] = self->columns;
  return MMEDGE_OK;
}

static int tell(const char* what, mmedge_status status) {
  printf("%s: %d %s\n", what, status, status == MMEDGE_OK ? "" : mmedge_last_error());
  return status == MMEDGE_OK;
}

/* Numbers that a test computes too: element i is (3 i + first) mod 7. */
static void fill(mmedge_tensor* tensor, const mmedge_tensor_spec* spec, int first, void* memory) {
  tensor->name = spec->name;
  tensor->data = memory;
  tensor->dtype = spec->dtype;
  tensor->rank = spec->rank;
  tensor->bytes = 0;
  int64_t count = 1;
  for (int32_t axis = 0; axis < spec->rank; ++axis) {
    tensor->shape[axis] = spec->shape[axis] >= 0 ? spec->shape[axis] : axis == 0 ? 2 : 5;
    count *= tensor->shape[axis];
  }
  for (int64_t i = 0; i < count; ++i) {
    const int value = (int)((3 * i + first) % 7);
    switch (spec->dtype) {
      case MMEDGE_F32: ((float*)memory)[i] = (float)value; break;
      case MMEDGE_I64: ((int64_t*)memory)[i] = value; break;
      case MMEDGE_BOOL: ((uint8_t*)memory)[i] = value > 3; break;
      default: ((uint8_t*)memory)[i] = (uint8_t)value;
    }
  }
}

int main(int count, char** arguments) {
  static int64_t memory[MOST][256];
  if (count != 4) return 2;
  fault = arguments[3];
  mmedge_backend toy = MMEDGE_BACKEND;
  toy.name = arguments[2];
  toy.user = (void*)"1.5";
  toy.version = version;
  toy.missing = missing;
  toy.message = message;
  toy.open_stage = open_stage;
  toy.close_stage = close_stage;
  toy.make_slot = make_slot;
  toy.close_slot = close_slot;
  toy.set_input = set_input;
  toy.run = is_fault("no run") ? NULL : run;
  toy.output = output;
  if (is_fault("struct size")) toy.struct_size += 8;
  const mmedge_backend* backends[] = {&toy};
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  options.backends = backends;
  options.backend_count = 1;
  options.backend = arguments[2];
  options.onnxruntime = "/nowhere/libonnxruntime.so"; /* no other engine helps */
  options.threads = 3;

  mmedge_bundle* bundle = NULL;
  mmedge_pipeline* pipeline = NULL;
  if (!tell("open", mmedge_bundle_open(arguments[1], &bundle))) return 1;
  const mmedge_status loaded = mmedge_pipeline_load(bundle, &options, &pipeline);
  memset(&toy, 0, sizeof toy); /* the library has its own copy */
  mmedge_bundle_close(bundle);
  if (tell("load", loaded)) {
    mmedge_choice choice = MMEDGE_CHOICE;
    mmedge_pipeline_choice(pipeline, &choice);
    printf("choice: %s by %s\n", choice.variant, choice.backend);
    mmedge_state* state = NULL;
    if (mmedge_state_create(pipeline, &state) != MMEDGE_OK) state = NULL;
    mmedge_tensor inputs[MOST];
    const int32_t input_count = mmedge_pipeline_input_count(pipeline);
    for (int turn = 0; turn < 3; ++turn) {
      for (int32_t i = 0; i < input_count; ++i) {
        mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
        mmedge_pipeline_input(pipeline, i, &spec);
        fill(&inputs[i], &spec, turn + i, memory[i]);
      }
      if (turn == 0) tell("warm up", mmedge_pipeline_warm_up(pipeline, inputs, input_count));
      mmedge_tensor outputs[MOST] = {{0}};
      const int32_t output_count = mmedge_pipeline_output_count(pipeline);
      for (int32_t i = 0; i < output_count; ++i) {
        mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
        mmedge_pipeline_output(pipeline, i, &spec);
        outputs[i].name = spec.name;
      }
      if (!tell("run", mmedge_pipeline_run_state(pipeline, inputs, input_count, outputs, output_count,
                                                 state))) {
        continue;
      }
      for (int32_t i = 0; i < output_count; ++i) {
        printf("%s:", outputs[i].name);
        for (size_t k = 0; k < outputs[i].bytes / sizeof(float); ++k) {
          printf(" %.9g", ((const float*)outputs[i].data)[k]);
        }
        printf("\n");
      }
    }
    mmedge_state_close(state);
    mmedge_pipeline_close(pipeline);
  }
  printf("left: %d stages, %d slots\n", stages, slots);
  return 0;
}
