// Shows how the C++ runtime reads manifests, tokenizer files and constraints.
//
// Each case on stdin is a line "KIND LENGTH" and so many bytes; each answer on stdout a line of
// JSON. `schema_probe fuzz KIND SEED COUNT` parses changed inputs: fuzz_loop.h.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "error.h"
#include "fuzz_loop.h"
#include "schema/constraints.h"
#include "schema/manifest.h"
#include "schema/patterns.h"
#include "schema/read.h"
#include "schema/tokenizer_rules.h"
#include "schema/utf8.h"

// Allocations so far, of which work for every call makes none.
static size_t allocations = 0;

void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace mmedge::runtime {
namespace {

std::string json(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    char escape[8];
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || c == '"' || c == '\\') {
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}
std::string json(const char* text) { return json(std::string(text)); }
std::string json(bool value) { return value ? "true" : "false"; }
std::string json(int64_t value) { return std::to_string(value); }
std::string json(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  const std::string plain(text);
  if (plain.find("nan") != std::string::npos) return "NaN";
  if (plain.find("inf") != std::string::npos) return plain[0] == '-' ? "-Infinity" : "Infinity";
  return plain.find_first_of(".e") == std::string::npos ? plain + ".0" : plain;
}

std::string json(const Axis& axis);
std::string json(const TensorSpec& spec);
std::string json(const Dimension& d);
std::string json(const Constraint& c);
std::string json(const Tokenizer& t);
std::string json(const Modality& m);
std::string json(const Range& r);
std::string json(const Stage& s);
std::string json(const Plan& p);
std::string json(const Move& m);
std::string json(const Cut& c);
std::string json(const Tolerance& t);
std::string json(const Variant& v);
std::string json(const StateSpec& s);
std::string json(const Loop& loop);
template <class Value>
std::string json(const std::optional<Value>& value);
template <class Item>
std::string json(const std::vector<Item>& items);
template <class Item>
std::string json(const std::map<std::string, Item>& members);

// An object; members are added in the order of the dataclasses' fields.
class Object {
 public:
  template <class Value>
  Object& add(const char* key, const Value& value) {
    text_ += (text_.empty() ? "" : ",") + json(key) + ":" + json(value);
    return *this;
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

template <class Value>
std::string json(const std::optional<Value>& value) {
  return value ? json(*value) : "null";
}
std::string json(const Axis& axis) {
  return axis.is_dynamic() ? json(axis.dimension) : json(axis.size);
}
std::string json(const TensorSpec& spec) {
  return Object().add("name", spec.name).add("dtype", dtype_name(spec.dtype)).add("shape", spec.shape)
      .text();
}
std::string json(const Dimension& d) {
  return Object().add("min", d.min).add("opt", d.opt).add("max", d.max).add("multiple", d.multiple)
      .text();
}
std::string json(const Constraint& c) {
  return Object().add("expression", c.expression).add("source", c.source).text();
}
std::string json(const Tokenizer& t) {
  return Object().add("file", t.file).add("ids", t.ids).add("mask", t.mask).text();
}
std::string json(const Modality& m) {
  const char* absent[] = {"zeros", "token", "last"};
  return Object()
      .add("name", m.name)
      .add("inputs", m.inputs)
      .add("required", m.required)
      .add("rate_hz", m.rate_hz)
      .add("max_age_ms", m.max_age_ms)
      .add("absent", absent[static_cast<int>(m.absent)])
      .add("tokenizer", m.tokenizer)
      .add("sample_rate_hz", m.sample_rate_hz)
      .text();
}
std::string json(const Range& r) { return Object().add("min", r.min).add("max", r.max).text(); }
std::string json(const Stage& s) {
  return Object()
      .add("name", s.name)
      .add("graph", s.graph)
      .add("inputs", s.inputs)
      .add("outputs", s.outputs)
      .add("modality", s.modality)
      .add("flops", s.flops)
      .text();
}
std::string json(const Plan& p) {
  return Object().add("name", p.name).add("stages", p.stages).text();
}
std::string json(const Move& m) {
  return Object().add("modality", m.modality).add("what", m.what).add("flops", m.flops).text();
}
std::string json(const Cut& c) {
  return Object().add("moves", c.moves).add("remarks", c.remarks).text();
}
std::string json(const Tolerance& t) {
  return Object().add("rtol", t.rtol).add("atol", t.atol).text();
}
std::string json(const Variant& v) {
  return Object()
      .add("backend", v.backend)
      .add("precision", v.precision)
      .add("target", v.target)
      .add("files", v.files)
      .add("tolerance", v.tolerance)
      .add("tolerances", v.tolerances)
      .add("requires", v.requirements)
      .add("build", v.build)
      .add("metrics", v.metrics)
      .add("not_checked", v.not_checked)
      .add("plan", v.plan)
      .add("cache", v.in_place ? "in_place" : "growing")
      .text();
}
std::string json(const StateSpec& s) {
  const char* initial[] = {"empty", "zeros", "stored", "output"};
  return Object()
      .add("stage", s.stage)
      .add("input", s.input)
      .add("output", s.output)
      .add("axis", s.axis)
      .add("initial", initial[static_cast<int>(s.initial)])
      .add("source", s.source)
      .text();
}
std::string json(const GenerateLoop& l) {
  return Object()
      .add("kind", "generate")
      .add("stage", l.stage)
      .add("token", l.token)
      .add("logits", l.logits)
      .add("limit", l.limit)
      .add("position", l.position)
      .add("start", l.start)
      .add("stop", l.stop)
      .add("suppress", l.suppress)
      .add("suppress_first", l.suppress_first)
      .add("temperature", l.temperature)
      .add("top_k", l.top_k)
      .add("top_p", l.top_p)
      .add("tokenizer", l.tokenizer)
      .add("whole_prompt", l.whole_prompt)
      .text();
}
std::string json(const DenoiseLoop& l) {
  std::vector<std::vector<double>> schedule;
  for (const auto& row : l.schedule) schedule.emplace_back(row.begin(), row.end());
  return Object()
      .add("kind", "denoise")
      .add("stage", l.stage)
      .add("latent", l.latent)
      .add("time", l.time)
      .add("prediction", l.prediction)
      .add("schedule", schedule)
      .add("initial_scale", l.initial_scale)
      .add("clip", l.clip)
      .add("guidance", l.guidance)
      .add("unconditional", l.unconditional)
      .add("decoder", l.decoder)
      .text();
}
std::string json(const Loop& loop) {
  const auto* generate = std::get_if<GenerateLoop>(&loop);
  return generate != nullptr ? json(*generate) : json(std::get<DenoiseLoop>(loop));
}
template <class Item>
std::string json(const std::vector<Item>& items) {
  std::string out;
  for (const Item& item : items) out += (out.empty() ? "" : ",") + json(item);
  return "[" + out + "]";
}
template <class Item>
std::string json(const std::map<std::string, Item>& members) {
  std::string out;
  for (const auto& [key, item] : members) out += (out.empty() ? "" : ",") + json(key) + ":" + json(item);
  return "{" + out + "}";
}
std::string json(const Manifest& m) {
  std::vector<Loop> loops;
  if (!std::holds_alternative<std::monostate>(m.loop)) loops.push_back(m.loop);
  return Object()
      .add("name", m.name)
      .add("modalities", m.modalities)
      .add("stages", m.stages)
      .add("outputs", m.outputs)
      .add("variants", m.variants)
      .add("files", m.files)
      .add("dimensions", m.dimensions)
      .add("ranges", m.ranges)
      .add("cut", m.cut)
      .add("constraints", m.constraints)
      .add("not_checked", m.not_checked)
      .add("labels", m.labels)
      .add("provenance", m.provenance)
      .add("samples", m.samples)
      .add("plans", m.plans)
      .add("states", m.states)
      .add("loops", loops)
      .add("schema_version", static_cast<int64_t>(m.schema_version))
      .text();
}

// A document as it was read. Strings are lists of their characters, of which a surrogate may be one.
std::string echo(JsonValue value) {
  switch (value.kind()) {
    case JsonKind::kNull:
      return "null";
    case JsonKind::kFalse:
      return "false";
    case JsonKind::kTrue:
      return "true";
    case JsonKind::kInteger: {
      int64_t number = 0;
      return value.integer(&number) ? json(number) : "[" + json(value.number()) + "]";
    }
    case JsonKind::kFloat:
      return json(value.number());
    case JsonKind::kString: {
      const std::string text = value.string();
      std::string out;
      for (size_t at = 0; at < text.size();) {
        out += (out.empty() ? "" : ",") + json(int64_t{next_character(text, &at)});
      }
      return "{\"text\":[" + out + "]}";
    }
    default:
      break;
  }
  if (value.is(JsonKind::kObject)) {
    if (const auto key = value.duplicate_key()) return "{\"duplicate\":" + echo(*key) + "}";
  }
  const size_t each = value.is(JsonKind::kObject) ? 2 : 1;
  std::string out;
  JsonValue item = value.first();
  for (size_t i = 0; i < value.size() * each; ++i, item = item.next()) {
    out += (out.empty() ? "" : ",") + echo(item);
  }
  return (each == 2 ? "{\"members\":[" : "{\"items\":[") + out + "]}";
}

Sizes read_sizes(JsonValue value) {
  Sizes sizes;
  JsonValue key = value.first();
  for (size_t i = 0; i < value.size(); ++i, key = key.next().next()) {
    key.next().integer(&sizes[key.string()]);
  }
  return sizes;
}

// {"dimensions": {name: [min, opt, max, multiple]}, "constraints": [expression], "sizes": [{}]}
std::string relations(Bytes data) {
  const JsonDocument document(data);
  const JsonValue root = document.root();
  std::map<std::string, Dimension> dimensions;
  const JsonValue limits_of = *root.find("dimensions");
  JsonValue key = limits_of.first();
  for (size_t i = 0; i < limits_of.size(); ++i, key = key.next().next()) {
    Dimension& limits = dimensions[key.string()];
    JsonValue number = key.next().first();
    number.integer(&limits.min);
    (number = number.next()).integer(&limits.opt);
    int64_t most = 0;
    if ((number = number.next()).integer(&most)) limits.max = most;
    number.next().integer(&limits.multiple);
  }
  std::vector<Constraint> constraints;
  const JsonValue expressions = *root.find("constraints");
  JsonValue expression = expressions.first();
  for (size_t i = 0; i < expressions.size(); ++i, expression = expression.next()) {
    constraints.push_back({expression.string(), "line " + std::to_string(i)});
  }
  const Relations relations(dimensions, constraints);
  std::string out;
  const JsonValue cases = *root.find("sizes");
  JsonValue each = cases.first();
  for (size_t i = 0; i < cases.size(); ++i, each = each.next()) {
    const Sizes sizes = read_sizes(each);
    const std::string fault = relations.fault(sizes);
    // The forms for every call say the same.
    std::vector<int64_t> places(relations.names().size(), kUnknownSize), scratch(places.size());
    for (const auto& [name, size] : sizes) places[relations.index(name)] = size;
    const size_t before = allocations;
    const bool holds = relations.holds(places.data());
    const bool all = relations.complete(places.data(), scratch.data());
    if (allocations != before || holds != fault.empty()) std::abort();
    const Sizes completed = relations.complete(sizes);
    for (const auto& [name, size] : completed) {
      if (places[relations.index(name)] != size) std::abort();
    }
    if (relations.holds(places.data()) != all) std::abort();
    out += (out.empty() ? "" : ",") + ("[" + json(fault) + "," + json(completed) + "]");
  }
  std::string words;
  for (const auto& [name, limits] : dimensions) {
    words += (words.empty() ? "" : ",") + json(spans(limits));
    for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{64}, int64_t{100}}) {
      words += "," + json(allows(limits, size)) + "," + json(round_up(limits, size));
    }
  }
  return "{\"ok\":[" + out + "],\"limits\":[" + words + "]}";
}

std::string printable_runs() {
  std::vector<int64_t> ends;
  bool before = false;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (is_printable(c) != before) ends.push_back(c);
    before = is_printable(c);
  }
  return "{\"ok\":" + json(ends) + "}";
}

std::string manifest(Bytes data) {
  const Manifest manifest = manifest_from_json(data, "here");
  check_manifest(manifest, "again");
  // What follows from a manifest that keeps the rules needs no checks of its own.
  for (const std::string& plan : manifest.plan_names()) {
    for (const Stage* stage : manifest.in_order(plan)) manifest.has_cores(*stage);
  }
  for (const Variant& variant : manifest.variants) manifest.runs_own_graphs(variant);
  manifest.returned_outputs();
  const Relations relations(manifest.dimensions, manifest.constraints);
  relations.complete(Sizes());
  return "{\"ok\":" + json(manifest) + "}";
}

std::string answer(const std::string& kind, Bytes data) {
  const std::string text(data.text());
  try {
    if (kind == "manifest") return manifest(data);
    if (kind == "version") return "{\"ok\":" + json(stated_version(data)) + "}";
    if (kind == "labels") return "{\"ok\":" + json(labels_from_json(data, "here")) + "}";
    if (kind == "tokenizer") return check_tokenizer(data, "here"), "{\"ok\":null}";
    if (kind == "json") return "{\"ok\":" + echo(JsonDocument(data).root()) + "}";
    if (kind == "pattern") {
      return "{\"ok\":" + json(int64_t{check_pattern(text, "$")}) + "}";
    }
    if (kind == "relations") return relations(data);
    if (kind == "printable") return printable_runs();
    if (kind == "expression") {
      std::string fault;
      const auto expression = parse_expression(text, &fault);
      if (!expression) return "{\"error\":" + json(fault) + "}";
      return "{\"ok\":" + json(static_cast<int64_t>(expression->tokens())) + "}";
    }
  } catch (const Error& error) {
    if (error.code() != Code::kBundle) std::abort();
    return "{\"error\":" + json(error.what()) + "}";
  } catch (const Misfit& fault) {
    return "{\"error\":" + json(fault.text) + "}";
  }
  std::fprintf(stderr, "unknown kind %s\n", kind.c_str());
  std::exit(2);
}

struct Case {
  std::string kind, data;
};

bool read_case(Case* out) {
  char kind[32];
  size_t length = 0;
  if (std::scanf("%31s %zu", kind, &length) != 2) return false;
  if (std::getchar() != '\n') return false;
  out->kind = kind;
  out->data.resize(length);
  return std::fread(&out->data[0], 1, length, stdin) == length;
}

// A copy without spare room, so that a read past the end is seen.
std::string run(const Case& each) {
  const std::vector<uint8_t> exact(each.data.begin(), each.data.end());
  return answer(each.kind, {exact.data(), exact.size()});
}

int fuzz(FuzzLoop loop) {
  return loop.run([&](const std::string& data) {
    return run({loop.kind, data}).rfind("{\"ok\"", 0) == 0;
  });
}

}  // namespace
}  // namespace mmedge::runtime

int main(int argc, char** argv) {
  using namespace mmedge::runtime;
  if (argc > 1 && std::string(argv[1]) == "fuzz") return fuzz(FuzzLoop(argc - 2, argv + 2));
  for (Case each; read_case(&each);) std::printf("%s\n", run(each).c_str());
  return 0;
}
