// Reads a manifest, field by field.
#include "schema/manifest.h"

#include "error.h"
#include "schema/constraints.h"
#include "schema/fields.h"
#include "schema/names.h"
#include "schema/rules.h"

namespace mmedge::runtime {
namespace {

// Reads each item of a list with `read(value, place)`.
template <class Item, class Read>
std::vector<Item> read_items(JsonValue value, const Place& where, Read read, size_t least = 0,
                             size_t most = 4096) {
  const size_t count = read_list(value, where, least, most);
  std::vector<Item> items;
  items.reserve(count);
  JsonValue item = value.first();
  for (size_t i = 0; i < count; ++i, item = item.next()) items.push_back(read(item, Place(where, i)));
  return items;
}

using TextReader = std::string (*)(JsonValue, const Place&);

// Reads each member of an object: its key, then its value.
template <class Item, class Read>
std::map<std::string, Item> read_members(JsonValue value, const Place& where, TextReader read_key,
                                         Read read, size_t most = 4096) {
  const size_t count = read_table(value, where, most);
  std::map<std::string, Item> members;
  JsonValue key = value.first();
  for (size_t i = 0; i < count; ++i, key = key.next().next()) {
    std::string name = read_key(key, Place(where, key, " key %"));
    members.emplace(std::move(name), read(key.next(), Place(where, key, "[%]")));
  }
  return members;
}

std::map<std::string, std::string> read_texts(JsonValue value, const Place& where,
                                              TextReader read_key, TextReader read,
                                              size_t most = 4096) {
  return read_members<std::string>(value, where, read_key, read, most);
}

std::vector<std::string> read_notes(JsonValue value, const Place& where) {
  return read_items<std::string>(value, where, read_text);
}

Limits between(double least, double most) {
  Limits limits;
  limits.least = least;
  limits.most = most;
  return limits;
}

std::optional<double> read_positive_or_null(JsonValue value, const Place& where) {
  if (value.is_null()) return std::nullopt;
  Limits limits;
  limits.above = 0;
  return read_number(value, where, limits);
}

Axis read_axis(JsonValue value, const Place& where) {
  Axis axis;
  if (value.is(JsonKind::kString)) {
    axis.dimension = read_name(value, where);
  } else {
    axis.size = read_integer(value, where, 0, kMaxElements);
  }
  return axis;
}

TensorSpec read_tensor(JsonValue value, const Place& where) {
  const Record fields(value, where, {"name", "dtype", "shape"});
  TensorSpec spec;
  spec.name = read_tensor_name(fields[0], fields.at(0));
  spec.dtype = static_cast<DType>(
      read_option(fields[1], fields.at(1),
                  {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
                   "uint8", "uint16", "uint32", "uint64"}));
  spec.shape = read_items<Axis>(fields[2], fields.at(2), read_axis, 0, kMaxRank);
  return spec;
}

Dimension read_dimension(JsonValue value, const Place& where, int version) {
  const Record fields(value, where, {"min", "opt", "max", "multiple"},
                      version == kOldestVersion ? 1u << 3 : 0);
  Dimension limits;
  limits.min = read_integer(fields[0], fields.at(0), 0, kMaxElements);
  limits.opt = read_integer(fields[1], fields.at(1), 1, kMaxElements);
  if (!fields[2].is_null()) limits.max = read_integer(fields[2], fields.at(2), 1, kMaxElements);
  if (fields.has(3)) limits.multiple = read_integer(fields[3], fields.at(3), 1, kMaxElements);
  return limits;
}

Tokenizer read_tokenizer(JsonValue value, const Place& where) {
  const Record fields(value, where, {"file", "ids", "mask"});
  Tokenizer tokenizer;
  tokenizer.file = read_path(fields[0], fields.at(0));
  tokenizer.ids = read_tensor_name(fields[1], fields.at(1));
  tokenizer.mask = read_tensor_name_or_null(fields[2], fields.at(2));
  return tokenizer;
}

Modality read_modality(JsonValue value, const Place& where) {
  const Record fields(value, where,
                      {"name", "inputs", "required", "rate_hz", "max_age_ms", "absent", "tokenizer",
                       "sample_rate_hz"});
  Modality modality;
  modality.name = read_name(fields[0], fields.at(0));
  modality.inputs = read_tensor_names(fields[1], fields.at(1), 1);
  modality.required = read_boolean(fields[2], fields.at(2));
  modality.rate_hz = read_positive_or_null(fields[3], fields.at(3));
  modality.max_age_ms = read_positive_or_null(fields[4], fields.at(4));
  modality.absent =
      static_cast<Absent>(read_option(fields[5], fields.at(5), {"zeros", "token", "last"}));
  if (!fields[6].is_null()) modality.tokenizer = read_tokenizer(fields[6], fields.at(6));
  if (!fields[7].is_null()) {
    modality.sample_rate_hz = read_integer(fields[7], fields.at(7), 1, kMaxElements);
  }
  return modality;
}

Stage read_fields_of_stage(const Record& fields) {
  Stage stage;
  stage.name = read_name(fields[0], fields.at(0));
  stage.graph = read_path(fields[1], fields.at(1));
  stage.inputs = read_items<TensorSpec>(fields[2], fields.at(2), read_tensor, 1);
  stage.outputs = read_items<TensorSpec>(fields[3], fields.at(3), read_tensor, 1);
  stage.modality = read_name_or_null(fields[4], fields.at(4));
  stage.flops = read_integer(fields[5], fields.at(5), 0, kMaxFlops);
  return stage;
}

Stage read_stage(JsonValue value, const Place& where, int version) {
  if (version > kOldestVersion) {
    return read_fields_of_stage(
        Record(value, where, {"name", "graph", "inputs", "outputs", "modality", "flops"}));
  }
  // Version 3 also has a `loop`, which is known to be null.
  return read_fields_of_stage(Record(
      value, where, {"name", "graph", "inputs", "outputs", "modality", "flops", "loop"}, 1u << 6));
}

Plan read_plan(JsonValue value, const Place& where) {
  const Record fields(value, where, {"name", "stages"});
  Plan plan;
  plan.name = read_option(fields[0], fields.at(0), {"cut", "whole"}) == 0 ? "cut" : "whole";
  plan.stages = read_items<std::string>(fields[1], fields.at(1), read_name, 1, kMaxStages);
  return plan;
}

Move read_move(JsonValue value, const Place& where) {
  const Record fields(value, where, {"modality", "what", "flops"});
  Move move;
  move.modality = read_name(fields[0], fields.at(0));
  move.what = read_text(fields[1], fields.at(1));
  move.flops = read_integer(fields[2], fields.at(2), 0, kMaxFlops);
  return move;
}

Cut read_cut(JsonValue value, const Place& where) {
  const Record fields(value, where, {"moves", "remarks"});
  Cut cut;
  cut.moves = read_items<Move>(fields[0], fields.at(0), read_move);
  cut.remarks = read_notes(fields[1], fields.at(1));
  return cut;
}

Constraint read_constraint(JsonValue value, const Place& where) {
  const Record fields(value, where, {"expression", "source"});
  return {read_text(fields[0], fields.at(0)), read_text(fields[1], fields.at(1))};
}

Range read_range(JsonValue value, const Place& where) {
  const Record fields(value, where, {"min", "max"});
  return {read_number(fields[0], fields.at(0)), read_number(fields[1], fields.at(1))};
}

Tolerance read_tolerance(JsonValue value, const Place& where) {
  const Record fields(value, where, {"rtol", "atol"});
  return {read_number(fields[0], fields.at(0), between(0, kMaxRtol)),
          read_number(fields[1], fields.at(1), between(0, kMaxAtol))};
}

double read_metric(JsonValue value, const Place& where) { return read_number(value, where); }

// Fields of a manifest that version 3 had not, as bits.
constexpr uint32_t kAdded = 1u << 10 | 1u << 11 | 1u << 15 | 1u << 16 | 1u << 17;

void read_added(const Record& fields, int version, Manifest* manifest) {
  if (version == kOldestVersion) return;
  manifest->constraints = read_items<Constraint>(fields[10], fields.at(10), read_constraint, 0,
                                                 kMaxConstraints);
  manifest->not_checked = read_notes(fields[11], fields.at(11));
}

void read_plans_and_loops(const Record& fields, int version, Manifest* manifest) {
  if (version == kOldestVersion) return;
  manifest->plans = read_items<Plan>(fields[15], fields.at(15), read_plan, 0, 2);
  manifest->states = read_items<StateSpec>(fields[16], fields.at(16), read_state);
  std::vector<Loop> loops = read_items<Loop>(
      fields[17], fields.at(17),
      [&](JsonValue value, const Place& place) { return read_loop(value, place, version); }, 0, 1);
  if (!loops.empty()) manifest->loop = std::move(loops.front());
}

Manifest read_manifest(JsonValue root, int version) {
  const Place where;
  const Record fields(root, where,
                      {"schema_version", "name", "modalities", "stages", "outputs", "variants",
                       "files", "dimensions", "ranges", "cut", "constraints", "not_checked",
                       "labels", "provenance", "samples", "plans", "states", "loops"},
                      version == kOldestVersion ? kAdded : 0);
  const auto stage = [&](JsonValue value, const Place& place) {
    return read_stage(value, place, version);
  };
  const auto variant = [&](JsonValue value, const Place& place) {
    return read_variant(value, place, version);
  };
  const auto dimension = [&](JsonValue value, const Place& place) {
    return read_dimension(value, place, version);
  };
  read_integer(fields[0], fields.at(0), version, version);
  Manifest manifest;
  manifest.name = read_name(fields[1], fields.at(1));
  manifest.modalities = read_items<Modality>(fields[2], fields.at(2), read_modality, 1);
  manifest.stages = read_items<Stage>(fields[3], fields.at(3), stage, 1, kMaxStages);
  manifest.outputs = read_tensor_names(fields[4], fields.at(4));
  manifest.variants = read_items<Variant>(fields[5], fields.at(5), variant, 1, kMaxVariants);
  manifest.files = read_texts(fields[6], fields.at(6), read_path, read_digest, kMaxFiles);
  manifest.dimensions = read_members<Dimension>(fields[7], fields.at(7), read_name, dimension);
  manifest.ranges = read_members<Range>(fields[8], fields.at(8), read_tensor_name, read_range);
  manifest.cut = read_cut(fields[9], fields.at(9));
  read_added(fields, version, &manifest);
  manifest.labels = read_texts(fields[12], fields.at(12), read_tensor_name, read_path);
  manifest.provenance = read_texts(fields[13], fields.at(13), read_text, read_text);
  manifest.samples = read_integer(fields[14], fields.at(14), 0, kMaxFiles);
  read_plans_and_loops(fields, version, &manifest);
  return manifest;
}

// The version to read by. Before the fields: those of another version would only be reported as
// unknown. Without a version the fields are read by the newest, and say so.
int version_of(JsonValue root, const std::string& source) {
  const auto stated = read_object(root, Place()).find("schema_version");
  if (!stated || !stated->is(JsonKind::kInteger)) return kSchemaVersion;
  int64_t version = 0;
  const bool fits = stated->integer(&version);
  if (fits && version >= kOldestVersion && version <= kSchemaVersion) {
    return static_cast<int>(version);
  }
  const bool newer = fits ? version > kSchemaVersion : stated->raw()[0] != '-';
  throw Error(Code::kBundle,
              source + ": $.schema_version: expected schema version " +
                  std::to_string(kSchemaVersion) + ", got " + (newer ? "newer" : "older") +
                  " schema version " + show(*stated) + "; " +
                  (newer ? "upgrade mmedge" : "export the bundle again"));
}

[[noreturn]] void refuse(const std::string& source, const Misfit& fault) {
  throw Error(Code::kBundle, source + ": " + fault.text + "; export the bundle again");
}

}  // namespace

Variant read_variant(JsonValue value, const Place& where, int version) {
  // Version 4 has no `cache`; version 3 may leave out `not_checked` and `plan` too.
  const uint32_t optional = (version < 5 ? 1u << 11 : 0) | (version < 4 ? 1u << 9 | 1u << 10 : 0);
  const Record fields(value, where,
                      {"backend", "precision", "target", "files", "tolerance", "tolerances",
                       "requires", "build", "metrics", "not_checked", "plan", "cache"},
                      optional);
  Variant variant;
  variant.backend = read_name(fields[0], fields.at(0));
  variant.precision = read_name(fields[1], fields.at(1));
  variant.target = read_name(fields[2], fields.at(2));
  variant.files = read_texts(fields[3], fields.at(3), read_name, read_path);
  variant.tolerance = read_tolerance(fields[4], fields.at(4));
  variant.tolerances =
      read_members<Tolerance>(fields[5], fields.at(5), read_tensor_name, read_tolerance);
  variant.requirements = read_texts(fields[6], fields.at(6), read_name, read_text);
  variant.build = read_texts(fields[7], fields.at(7), read_text, read_text);
  variant.metrics = read_members<double>(fields[8], fields.at(8), read_name, read_metric);
  if (fields.has(9)) variant.not_checked = read_notes(fields[9], fields.at(9));
  if (fields.has(10) && !fields[10].is_null()) {
    variant.plan = read_option(fields[10], fields.at(10), {"cut", "whole"}) == 0 ? "cut" : "whole";
  }
  if (fields.has(11)) {
    variant.in_place = read_option(fields[11], fields.at(11), {"growing", "in_place"}) == 1;
  }
  return variant;
}

std::vector<std::string> read_tensor_names(JsonValue value, const Place& where, size_t least) {
  return read_items<std::string>(value, where, read_tensor_name, least);
}

std::optional<std::string> read_name_or_null(JsonValue value, const Place& where) {
  if (value.is_null()) return std::nullopt;
  return read_name(value, where);
}

std::optional<std::string> read_tensor_name_or_null(JsonValue value, const Place& where) {
  if (value.is_null()) return std::nullopt;
  return read_tensor_name(value, where);
}

Manifest manifest_from_json(Bytes data, const std::string& source) {
  try {
    const JsonDocument document(data, kMaxManifestBytes);
    const int version = version_of(document.root(), source);
    check_older_version(document.root(), version);
    Manifest manifest = read_manifest(document.root(), version);
    check_rules(manifest);
    return manifest;
  } catch (const Misfit& fault) {
    refuse(source, fault);
  }
}

std::optional<int64_t> stated_version(Bytes data) {
  try {
    const JsonDocument document(data, kMaxManifestBytes);
    const auto version = read_object(document.root(), Place()).find("schema_version");
    if (!version || !version->is(JsonKind::kInteger)) return std::nullopt;
    int64_t number = 0;
    if (version->integer(&number)) return number;
    return version->raw()[0] == '-' ? INT64_MIN : INT64_MAX;
  } catch (const Misfit&) {
    return std::nullopt;
  }
}

void check_manifest(const Manifest& manifest, const std::string& source) {
  try {
    check_rules(manifest);
  } catch (const Misfit& fault) {
    refuse(source, fault);
  }
}

std::vector<std::string> labels_from_json(Bytes data, const std::string& source) {
  try {
    const JsonDocument document(data, kMaxLabelsBytes);
    return read_items<std::string>(document.root(), Place(), read_text, 0,
                                   static_cast<size_t>(kMaxElements));
  } catch (const Misfit& fault) {
    refuse(source, fault);
  }
}

}  // namespace mmedge::runtime
