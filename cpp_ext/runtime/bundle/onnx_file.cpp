// Checks of whole graphs: operators, divisions, functions, places of weights.
#include "bundle/onnx_file.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>
#include <utility>

#include "bundle/integers.h"
#include "bundle/onnx_graph.h"
#include "bundle/operators.h"
#include "bundle/paths.h"
#include "bundle/protobuf.h"
#include "error.h"

namespace mmedge::runtime {
namespace {

using namespace onnx;

// An ORT-format file carries this at bytes 4 to 8. ONNX Runtime would read such a file by another
// parser than this one.
constexpr std::string_view kOrtMagic = "ORTM";

bool is_own_domain(const ParsedModel& model, NameId domain) {
  return model.text(domain) == kOwnDomain;
}

// One pass over a file's nodes, bodies and functions.
class GraphCheck {
 public:
  GraphCheck(ParsedModel& model, const std::string& source)
      : model_(model),
        source_(source),
        scope_(model, operators_),
        calls_(model, operators_),
        sizes_(model.functions.size(), 0),
        call_counts_(model.functions.size(), 0) {}

  void run(GraphFile* out) {
    for (size_t i = 0; i < model_.functions.size(); ++i) sizes_[i] = function(model_.functions[i]);
    node_count_ = 0;
    const Scope::Level level(scope_);
    graph(model_.graphs[model_.graph], /*is_body=*/false, /*in_function=*/false);
    check_count();
    for (size_t i = 0; i < model_.functions.size(); ++i) {
      if (call_counts_[i] == 0) continue;
      out->functions[std::string(model_.text(model_.functions[i].op))] = call_counts_[i];
    }
    out->needs_elements.assign(needs_elements_.begin(), needs_elements_.end());
  }

 private:
  [[noreturn]] void refuse(const std::string& fault) const {
    throw Error(Code::kBundle, source_ + ": " + fault);
  }

  // Checks a function's body, of whose inputs nothing is known; gives how many nodes it has.
  int64_t function(const ParsedFunction& function) {
    if (is_known_domain(model_.text(function.domain))) {
      refuse("a model-local function takes the name of operator " +
             model_.quoted_text(function.op) + " of domain " +
             model_.quoted_text(function.domain));
    }
    node_count_ = 0;
    const Scope::Level level(scope_);
    nodes(function.nodes, /*in_function=*/true);
    return node_count_;
  }

  void graph(const ParsedGraph& graph, bool is_body, bool in_function) {
    scope_.enter(graph, is_body);
    nodes(graph.nodes, in_function);
  }

  void nodes(Items places, bool in_function) {
    for (uint32_t at = places.begin; at < places.end; ++at) {
      const ParsedNode& node = model_.nodes[model_.items[at]];
      std::vector<char> results;
      const bool is_told = check_node(node, in_function, &results);
      scope_.add(node, is_told ? &results : nullptr);
    }
  }

  // Checks a node and its bodies. True where it has bodies or is a call of a function, which tell
  // of its first results whether they may be integers.
  bool check_node(const ParsedNode& node, bool in_function, std::vector<char>* results) {
    ++node_count_;
    const int32_t function = model_.function(node.domain, node.op);
    if (function >= 0 && in_function) {
      // Bodies that call bodies could call themselves, or expand without end.
      refuse("a model-local function calls function " + model_.quoted_text(node.op));
    }
    const Operator* known = nullptr;
    if (function >= 0 && is_own_domain(model_, node.domain)) {
      count_call(static_cast<size_t>(function));
    } else {
      known = operators_.find(model_, node);
      if (known == nullptr) refuse_operator(node);
    }
    check_faults(node, known);
    if (known == nullptr) {
      if (passes_graph(node)) {
        // Its operators would be called in a place where nothing is known of them.
        refuse("a call of function " + model_.quoted_text(node.op) + " passes a graph");
      }
      call_results(static_cast<size_t>(function), node, results);
      return true;
    }
    if (known->needs_elements) needs_elements_.emplace(model_.text(node.op));
    return check_bodies(node, in_function, results);
  }

  bool passes_graph(const ParsedNode& node) const {
    const auto begin = model_.items.begin() + node.attributes.begin;
    return std::any_of(begin, begin + node.attributes.size(), [&](uint32_t attribute) {
      return model_.attributes[attribute].graphs.size() > 0;
    });
  }

  void count_call(size_t function) {
    ++call_counts_[function];
    expanded_ += sizes_[function];
    check_count();  // before the body is gone through once more for this call
  }

  void check_count() const {
    if (node_count_ + expanded_ > kMaxNodes) {
      refuse("more than " + std::to_string(kMaxNodes) +
             " nodes with the bodies of functions in their places");
    }
  }

  [[noreturn]] void refuse_operator(const ParsedNode& node) const {
    const std::string expected =
        is_known_domain(model_.text(node.domain))
            ? "docs/reference/bundle.md says which are allowed"
            : "expected domain " + known_domains() + ", or " + quoted(kOwnDomain) +
                  " with a model-local function as its body";
    refuse("operator " + model_.quoted_text(node.op) + " of domain " +
           model_.quoted_text(node.domain) + " is not known; " + expected);
  }

  void check_faults(const ParsedNode& node, const Operator* known) const {
    std::string fault = node_fault(model_, node, known, scope_);
    const std::string_view op = model_.text(node.op);
    if (fault.empty() && node.domain == kNoName && (op == "Div" || op == "Mod")) {
      fault = division_fault(model_, node, scope_);
    }
    if (fault.empty()) return;
    std::string outputs;
    for (uint32_t i = 0; i < node.outputs.size() && i < 4; ++i) {
      outputs += (i > 0 ? ", " : "") + model_.quoted_text(model_.items[node.outputs.begin + i]);
    }
    refuse("operator " + model_.quoted_text(node.op) + " that makes " + outputs + ": " + fault +
           "; export the bundle again");
  }

  bool check_bodies(const ParsedNode& node, bool in_function, std::vector<char>* results) {
    // The outputs of a loop's body begin with its condition.
    const uint32_t skipped = model_.text(node.op) == "Loop" ? 1 : 0;
    bool has_bodies = false;
    uint32_t told = node.outputs.size();  // results that every body has
    for (uint32_t at = node.attributes.begin; at < node.attributes.end; ++at) {
      const Items graphs = model_.attributes[model_.items[at]].graphs;
      for (uint32_t body = graphs.begin; body < graphs.end; ++body) {
        if (!has_bodies) results->assign(told, 0);
        has_bodies = true;
        const ParsedGraph& inner = model_.graphs[model_.items[body]];
        const Scope::Level level(scope_);
        graph(inner, /*is_body=*/true, in_function);
        const uint32_t outputs = inner.outputs.size();
        told = std::min(told, outputs > skipped ? outputs - skipped : 0);
        for (uint32_t i = 0; i < told; ++i) {
          const NameId name = model_.items[inner.outputs.begin + skipped + i];
          if (scope_.may_be_integer(name)) (*results)[i] = 1;
        }
      }
    }
    if (has_bodies) std::fill(results->begin() + told, results->end(), 1);
    return has_bodies;
  }

  // Of a function's results, where it is called so, whether each may be int32 or int64.
  void call_results(size_t index, const ParsedNode& node, std::vector<char>* results) {
    const ParsedFunction& function = model_.functions[index];
    const uint32_t inputs = std::min(function.inputs.size(), node.inputs.size());
    const uint32_t outputs = std::min(function.outputs.size(), node.outputs.size());
    std::string types;
    for (uint32_t i = 0; i < inputs; ++i) {
      types += scope_.may_be_integer(model_.items[node.inputs.begin + i]) ? '1' : '0';
    }
    std::vector<char>& told = called_so_[{index, types}];
    if (told.size() < outputs) {
      const Scope::Level level(calls_);
      for (uint32_t i = 0; i < inputs; ++i) {
        calls_.add_input(model_.items[function.inputs.begin + i], types[i] == '1');
      }
      for (uint32_t at = function.nodes.begin; at < function.nodes.end; ++at) {
        calls_.add(model_.nodes[model_.items[at]], nullptr);
      }
      told.clear();
      for (uint32_t i = 0; i < outputs; ++i) {
        told.push_back(calls_.may_be_integer(model_.items[function.outputs.begin + i]) ? 1 : 0);
      }
    }
    results->assign(told.begin(), told.begin() + outputs);
  }

  ParsedModel& model_;
  const std::string& source_;
  OperatorCache operators_;
  Scope scope_;
  Scope calls_;  // of functions where they are called
  std::vector<int64_t> sizes_;    // nodes of each function
  std::vector<int> call_counts_;  // of each function
  std::set<std::string> needs_elements_;
  std::map<std::pair<size_t, std::string>, std::vector<char>> called_so_;
  int64_t node_count_ = 0;
  int64_t expanded_ = 0;  // nodes of all calls so far
};

// A number as external data writes it; false where it is none of up to 19 digits.
bool parse_number(std::string_view text, uint64_t* out) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.empty() || text.size() > 19 || !std::all_of(text.begin(), text.end(), is_digit)) {
    return false;
  }
  std::from_chars(text.data(), text.data() + text.size(), *out);
  return true;
}

// The part of the bundle's file that one tensor's external data names.
ExternalSpan external_span(const ParsedModel& model, const ExternalEntry& entry,
                           const std::string& graph, const std::map<std::string, uint64_t>& sizes,
                           const std::string& source) {
  std::string fault = path_fault(entry.location);
  ExternalSpan span;
  span.file = graph.substr(0, graph.rfind('/') + 1);
  const std::string location = quoted(entry.location.substr(0, kMaxPath));
  auto place = sizes.end();
  if (fault.empty()) {
    span.file += entry.location;
    place = sizes.find(span.file);
    if (place == sizes.end() || is_outside_of_list(span.file)) {
      fault = location + " is not a file of the bundle that its manifest lists";
    }
  }
  if (!fault.empty()) {
    throw Error(Code::kBundle, source + ": external data outside the bundle: " + fault);
  }
  const uint64_t size = place->second;
  const auto quote = [](std::string_view text) { return quoted(text.substr(0, 30)); };
  const std::string numbers = "[" + quote(entry.offset) + ", " + quote(entry.length) + "]";
  uint64_t offset = 0, length = 0;
  if (!parse_number(entry.offset, &offset) || !parse_number(entry.length, &length)) {
    throw Error(Code::kBundle, source + ": external data in " + location + ": no whole numbers: " +
                                   numbers);
  }
  if (offset > size || length > size - offset) {
    throw Error(Code::kBundle,
                source + ": external data past the end of " + location + ": " + numbers);
  }
  const uint64_t bytes = length != 0 ? length : size - offset;
  // Numbers of 4 bits lie two in a byte.
  if (entry.elements / 2 + entry.elements % 2 > bytes) {
    throw Error(Code::kBundle, source + ": constant " + model.quoted_text(entry.tensor) + " of " +
                                   std::to_string(entry.elements) +
                                   " elements has less data in " + location);
  }
  span.begin = offset;
  span.end = offset + bytes;
  return span;
}

bool is_graph_name(const std::string& name) {
  const std::string_view suffix = kGraphSuffix;
  return name.size() >= suffix.size() &&
         name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}  // namespace

GraphFile check_graph(Bytes data, const std::string& file,
                      const std::map<std::string, uint64_t>& sizes, const std::string& source) {
  if (!is_graph_name(file)) {
    throw Error(Code::kBundle, source + ": a graph's name must end in " + kGraphSuffix +
                                   "; export the bundle again");
  }
  if (data.size >= 8 && data.text().substr(4, 4) == kOrtMagic) {
    throw Error(Code::kBundle,
                source + ": an ORT-format file, expected an ONNX graph; export it as ONNX");
  }
  ParsedModel model;
  try {
    model = read_model(data);
  } catch (const WireError& error) {
    throw Error(Code::kBundle, source + ": not an ONNX graph: " + error.what() +
                                   "; export the bundle again");
  }
  if (model.standard_version > kNewestOperators) {
    throw Error(Code::kBundle, source + ": operators of version " +
                                   std::to_string(model.standard_version) + ", expected at most " +
                                   std::to_string(kNewestOperators) + "; upgrade mmedge");
  }
  GraphFile result;
  GraphCheck(model, source).run(&result);
  for (const ExternalEntry& entry : model.external) {
    ExternalTensor tensor;
    tensor.name = model.text(entry.tensor);
    tensor.location = entry.location;
    tensor.span = external_span(model, entry, file, sizes, source);
    result.spans.push_back(tensor.span);
    result.external.push_back(std::move(tensor));
  }
  std::sort(result.spans.begin(), result.spans.end());
  result.spans.erase(std::unique(result.spans.begin(), result.spans.end()), result.spans.end());
  for (const ExternalSpan& span : result.spans) {
    if (result.weights.empty() || result.weights.back() != span.file) {
      result.weights.push_back(span.file);
    }
  }
  return result;
}

std::map<std::string, GraphFile> check_graphs(
    const Manifest& manifest, const std::map<std::string, uint64_t>& sizes,
    const std::function<Bytes(const std::string&)>& read, const std::string& path) {
  std::map<std::string, std::set<std::string>> stages;
  std::set<std::string> files;
  for (const Stage& stage : manifest.stages) stages[stage.name].insert(stage.graph);
  for (const Variant& variant : manifest.variants) {
    // Files of these backends are engines, opaque to mmedge; those of all others are ONNX graphs.
    if (variant.backend == "tensorrt" || variant.backend == "tensorrt_rtx") continue;
    for (const auto& [stage, file] : variant.files) stages[stage].insert(file);
  }
  for (const auto& [file, digest] : manifest.files) {
    if (is_graph_name(file)) files.insert(file);
  }
  for (const auto& [stage, graphs] : stages) files.insert(graphs.begin(), graphs.end());
  std::map<std::string, GraphFile> results;
  for (const std::string& file : files) {
    results.emplace(file, check_graph(read(file), file, sizes, path + ": " + file));
  }
  for (const Stage& stage : manifest.stages) {
    std::set<std::string> empty;  // dimensions of its inputs that may be 0
    for (const TensorSpec& spec : stage.inputs) {
      for (const Axis& axis : spec.shape) {
        const auto limits = manifest.dimensions.find(axis.dimension);
        const bool is_named = axis.is_dynamic() && limits != manifest.dimensions.end();
        if (is_named && limits->second.min == 0) empty.insert(axis.dimension);
      }
    }
    if (empty.empty()) continue;
    for (const std::string& file : stages[stage.name]) {
      const std::vector<std::string>& needs = results[file].needs_elements;
      if (needs.empty()) continue;
      throw Error(Code::kBundle,
                  path + ": " + file + ": dimension " + quoted(*empty.begin()) + " may be 0, and " +
                      needs[0] + " ends the process where there is nothing; give the dimension a " +
                      "min of at least 1 and export the bundle again");
    }
  }
  return results;
}

}  // namespace mmedge::runtime
