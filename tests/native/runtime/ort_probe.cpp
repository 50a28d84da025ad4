// Drives the backend ONNX Runtime: reads one command in JSON per line, and answers with one.
//
// `ort_probe` waits for commands. `ort_probe fuzz SEED COUNT` reads one that opens a session, and
// then calls a slot's functions at random with tensors that mostly do not fit.
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "backends/cores.h"
#include "backends/dispatch.h"
#include "backends/onnxruntime/session.h"

using namespace mmedge::runtime;
using Json = nlohmann::json;

namespace {

struct Opened {
  Stage stage;
  Variant variant;
  std::unique_ptr<Session> session;
  std::vector<std::string> files;  // what the session was opened from in memory
};

struct Slot {
  Opened* opened = nullptr;
  std::unique_ptr<RunSlot> slot;
  std::map<std::string, Tensor> tensors;  // the caller's memory
};

std::map<std::string, std::unique_ptr<Opened>> sessions;
std::map<std::string, Slot> slots;
std::map<std::string, Value> values;

// A part of a command that may be left out. It stays as long as the command.
const Json& part(const Json& command, const char* name) {
  static const Json none = Json::object();
  return command.contains(name) ? command[name] : none;
}

std::string to_hex(const TensorView& view) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  const auto* data = static_cast<const unsigned char*>(view.data);
  for (size_t i = 0; i < view.bytes(); ++i) {
    text += digits[data[i] >> 4];
    text += digits[data[i] & 15];
  }
  return text;
}

Tensor to_tensor(const Json& json) {
  Tensor tensor;
  parse_dtype(json.at("dtype").get<std::string>(), &tensor.dtype);
  tensor.shape = json.at("shape").get<std::vector<int64_t>>();
  const std::string hex = json.value("hex", "");
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    tensor.data.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  if (!json.contains("hex")) tensor.data.resize(tensor.view().bytes());
  return tensor;
}

Json to_json(const TensorView& view) {
  if (view.data == nullptr) return nullptr;
  return {{"dtype", dtype_name(view.dtype)},
          {"shape", std::vector<int64_t>(view.shape, view.shape + view.rank)},
          {"hex", to_hex(view)}};
}

std::vector<TensorSpec> to_specs(const Json& json) {
  std::vector<TensorSpec> specs;
  for (const Json& each : json) {
    TensorSpec spec;
    spec.name = each.at("name");
    parse_dtype(each.at("dtype").get<std::string>(), &spec.dtype);
    for (const Json& axis : each.at("shape")) {
      spec.shape.push_back(axis.is_string() ? Axis{0, axis.get<std::string>()}
                                            : Axis{axis.get<int64_t>(), ""});
    }
    specs.push_back(spec);
  }
  return specs;
}

std::string read_file(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "rb")) {
    char part[1 << 16];
    while (const size_t count = std::fread(part, 1, sizeof part, file)) text.append(part, count);
    std::fclose(file);
  }
  return text;
}

onnxruntime::Kernels to_kernels(const Json& command) {
  if (!command.contains("kernel_library")) return {};
  const std::string path = command["kernel_library"];
  if (command.contains("isa")) {
    using UseIsa = int (*)(const char*);
    void* library = dlopen(path.c_str(), RTLD_NOW);
    reinterpret_cast<UseIsa>(dlsym(library, "mmedge_cpu_use_isa"))(
        command["isa"].is_null() ? nullptr : command["isa"].get<std::string>().c_str());
  }
  onnxruntime::Kernels kernels = onnxruntime::load_kernels(path);
  if (command.value("uncalled", false)) kernels.calls = [] { return uint64_t{0}; };
  return kernels;
}

Json open(const Json& command) {
  auto opened = std::make_unique<Opened>();
  Stage& stage = opened->stage;
  stage.name = command.at("stage");
  stage.flops = command.value("flops", int64_t{0});
  stage.inputs = to_specs(command.at("inputs"));
  stage.outputs = to_specs(command.at("outputs"));
  opened->variant.backend = command.value("backend", "ort");
  opened->variant.precision = "fp32";
  opened->variant.target = command.value("target", "cpu");
  StageSource source;
  source.stage = &stage;
  source.variant = &opened->variant;
  source.inputs = stage.inputs;
  source.alone = command.value("alone", true);
  source.functions = command.value("functions", int64_t{0});
  if (command.value("in_memory", false)) {
    opened->files.push_back(read_file(command.at("path")));
    opened->files.reserve(16);
    const auto bytes = [&] {
      const std::string& text = opened->files.back();
      return Bytes{reinterpret_cast<const uint8_t*>(text.data()), text.size()};
    };
    source.graph = bytes();
    for (const auto& [name, path] : part(command, "weights").items()) {
      opened->files.push_back(read_file(path));
      source.weights[name] = bytes();
    }
  } else {
    source.path = command.at("path");
  }
  SessionOptions options;
  if (command.contains("threads")) options.threads = command["threads"].get<int>();
  if (command.contains("kernels")) options.kernels = command["kernels"].get<bool>();
  if (command.contains("spin")) options.spin = command["spin"].get<bool>();
  if (command.contains("run_timeout_s")) options.run_timeout_s = command["run_timeout_s"];
  Backends backends;
  backends.add(onnxruntime::make_backend(command.at("library"), to_kernels(command)));
  opened->session = backends.open_stage(source, options);
  Json answer;
  for (const TensorSpec& spec : opened->session->inputs()) answer["inputs"].push_back(spec.name);
  for (const TensorSpec& spec : opened->session->outputs()) answer["outputs"].push_back(spec.name);
  if (const auto& attention = opened->session->attention()) {
    answer["attention"] = {{"nodes", attention->nodes}, {"kernel", attention->kernel},
                           {"reason", attention->reason}, {"text", attention->text()}};
  }
  sessions[command.at("session")] = std::move(opened);
  return answer;
}

Json probe_library(const Json& command) {
  const Backend backend = onnxruntime::make_backend(command.at("library"), {});
  void* context = backend.context.get();
  return {{"version", backend.version(context)},
          {"missing", backend.missing(context)},
          {"targets", backend.targets(context)},
          {"path", backend.version(context).empty()
                       ? Json(nullptr)
                       : Json(onnxruntime::Library::load(command["library"]).path())}};
}

// Throws where a slot refuses; its kind and words come back as of any error.
void check(const RunSlot& slot, Code code) {
  if (code != Code::kOk) throw Error(code, slot.message());
}

// Sets inputs ("inputs": tensors, "views": other slots' outputs, "values": values that were kept),
// memory of outputs ("memory": shapes, or names of inputs), runs, and hands states back.
Json run(const Json& command) {
  const std::string id = command.at("slot");
  Slot& used = slots[id];
  if (!used.slot) {
    used.opened = sessions.at(command.at("session")).get();
    used.slot = used.opened->session->make_slot();
  }
  RunSlot& slot = *used.slot;
  Session& session = *used.opened->session;
  for (const auto& [name, tensor] : part(command, "inputs").items()) {
    Tensor& own = used.tensors[name] = to_tensor(tensor);
    check(slot, slot.set_input(session.input_index(name), own.view()));
  }
  for (const auto& [name, from] : part(command, "views").items()) {
    const Slot& other = slots.at(from.at(0));
    const int index = other.opened->session->output_index(from.at(1));
    check(slot, slot.set_input(session.input_index(name), other.slot->output(index)));
  }
  for (const auto& [name, value] : part(command, "values").items()) {
    check(slot, slot.set_input(session.input_index(name), values.at(value)));
  }
  for (const auto& [name, memory] : part(command, "memory").items()) {
    if (memory.is_null()) {
      slot.reset_output(session.output_index(name));
      continue;
    }
    if (!memory.is_string()) used.tensors["out " + name] = to_tensor(memory);
    Tensor& own = used.tensors.at(memory.is_string() ? memory.get<std::string>() : "out " + name);
    check(slot, slot.set_output(session.output_index(name), own.view()));
  }
  Json answer;
  for (int count = command.value("count", 1); count > 0; --count) {
    check(slot, slot.run());
    answer = Json::object();
    for (const TensorSpec& spec : session.outputs()) {
      answer[spec.name] = to_json(slot.output(session.output_index(spec.name)));
    }
    for (const auto& [output, input] : part(command, "feed_back").items()) {
      check(slot, slot.feed_back(session.output_index(output), session.input_index(input)));
    }
  }
  for (const auto& [output, name] : part(command, "take").items()) {
    values[name] = slot.take_output(session.output_index(output));
    if (!values[name]) throw Error(Code::kInput, "nothing to take");
  }
  for (const auto& [input, name] : part(command, "take_states").items()) {
    values[name] = slot.take_input(session.input_index(input));
    if (!values[name]) throw Error(Code::kInput, "nothing to take");
  }
  return answer;
}

// Runs of several threads at once, each with a slot and inputs of its own; all answers.
Json run_threads(const Json& command) {
  Session& session = *sessions.at(command.at("session"))->session;
  const Json& feeds = command.at("feeds");
  std::vector<Json> answers(feeds.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < feeds.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto slot = session.make_slot();
      std::vector<Tensor> tensors;
      tensors.reserve(feeds[i].size());
      for (const auto& [name, tensor] : feeds[i].items()) {
        tensors.push_back(to_tensor(tensor));
        slot->set_input(session.input_index(name), tensors.back().view());
      }
      for (int count = command.at("count"); count > 0; --count) {
        if (slot->run() != Code::kOk) {
          answers[i] = slot->message();
          return;
        }
        Json outputs = Json::object();
        for (size_t k = 0; k < session.outputs().size(); ++k) {
          outputs[session.outputs()[k].name] = to_json(slot->output(k));
        }
        if (!answers[i].is_null() && answers[i] != outputs) outputs = "two runs differ";
        answers[i] = outputs;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return answers;
}

// Ends the program with everything still open, perhaps while a thread runs a slot.
[[noreturn]] void leave(bool busy) {
  static auto* left = new std::map<std::string, Slot>;
  static auto* open = new std::map<std::string, std::unique_ptr<Opened>>;
  left->swap(slots);
  open->swap(sessions);
  RunSlot* slot = left->begin()->second.slot.get();
  if (busy) {
    std::thread([slot] {
      while (slot->run() == Code::kOk) {}
    }).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::exit(0);
}

Json answer(const Json& command) {
  const std::string what = command.at("command");
  if (what == "open") return open(command);
  if (what == "run") return run(command);
  if (what == "threads") return run_threads(command);
  if (what == "library") return probe_library(command);
  if (what == "value") return to_json(values.at(command.at("name")).view());
  if (what == "drop") return values.erase(command.at("name"));
  if (what == "close") {
    for (auto it = slots.begin(); it != slots.end();) {
      it = it->second.opened == sessions.at(command.at("session")).get() ? slots.erase(it)
                                                                        : std::next(it);
    }
    return sessions.erase(command.at("session"));
  }
  if (what == "cores") {
    Stage stage;
    Json threads = Json::array();
    for (const Json& row : command.at("rows")) {
      stage.flops = row.at(0);
      const auto most = row.at(2).is_null() ? std::nullopt : std::optional<int>(row.at(2));
      const auto worth = stage_threads(stage, row.at(1), most);
      threads.push_back(worth ? Json(*worth) : Json(nullptr));
    }
    return {{"usable", usable_cores()}, {"threads", threads}};
  }
  if (what == "dispatch") {
    size_t count = 0;
    const KernelMeasurement* rows = kernel_measurements(&count);
    Json answer = {{"rows", Json::array()}, {"choices", Json::object()}};
    for (size_t i = 0; i < count; ++i) {
      answer["rows"].push_back({rows[i].device, rows[i].dtype, rows[i].dim, rows[i].rows,
                                rows[i].keys, rows[i].speedup});
    }
    for (const Json& device : command.at("devices")) {
      const KernelChoice choice = choose_kernel(device);
      answer["choices"][device.get<std::string>()] = {choice.kernel, choice.reason};
    }
    return answer;
  }
  if (what == "exit") leave(command.at("busy"));
  throw Error(Code::kInput, "unknown command " + what);
}

// Calls functions of a slot at random. Nothing may crash, and a run that succeeds fills outputs.
int fuzz(unsigned seed, int count) {
  std::string line;
  std::getline(std::cin, line);
  const Json command = Json::parse(line);
  open(command);
  Session& session = *sessions.begin()->second->session;
  const auto slot = session.make_slot();
  std::mt19937 random(seed);
  const auto pick = [&](size_t below) { return random() % below; };
  std::vector<std::vector<uint8_t>> memory(8, std::vector<uint8_t>(1 << 16));
  std::vector<Value> kept(4);
  const auto any_view = [&](const std::vector<TensorSpec>& specs, size_t index) {
    const TensorSpec& spec = specs[index % specs.size()];
    TensorView view;
    view.dtype = pick(8) == 0 ? static_cast<DType>(pick(12)) : spec.dtype;
    view.rank = pick(16) == 0 ? pick(kMaxRank + 2) : spec.shape.size();
    const int64_t dynamic = static_cast<int64_t>(pick(3));
    for (size_t axis = 0; axis < std::min(view.rank, kMaxRank); ++axis) {
      const bool known = axis < spec.shape.size() && !spec.shape[axis].is_dynamic();
      view.shape[axis] = known && pick(16) != 0 ? spec.shape[axis].size : dynamic;
      if (pick(64) == 0) view.shape[axis] = -static_cast<int64_t>(pick(3));
    }
    view.data = pick(32) == 0 ? nullptr : memory[pick(memory.size())].data();
    return view;
  };
  long runs = 0, good = 0, refused = 0;
  for (int i = 0; i < count; ++i) {
    const size_t in = pick(session.inputs().size() + (pick(16) == 0));
    const size_t out = pick(session.outputs().size() + (pick(16) == 0));
    Value& value = kept[pick(kept.size())];
    Code code = Code::kOk;
    switch (pick(9)) {
      case 0:
      case 1: code = slot->set_input(in, any_view(session.inputs(), in)); break;
      case 2: code = slot->set_output(out, any_view(session.outputs(), out)); break;
      case 3: slot->reset_output(out); break;
      case 4: code = slot->feed_back(out, in); break;
      case 5: code = slot->set_input(in, value); break;
      case 6:
        // An input may still refer to what is let go of: it is set anew first.
        for (size_t k = 0; k < session.inputs().size(); ++k) {
          TensorView view = any_view(session.inputs(), k);
          view.dtype = session.inputs()[k].dtype;
          view.rank = session.inputs()[k].shape.size();
          for (size_t axis = 0; axis < view.rank; ++axis) view.shape[axis] = 1;
          view.data = memory[0].data();
          slot->set_input(k, view);
        }
        value = pick(2) == 0 ? slot->take_output(out) : slot->take_input(in);
        break;
      default:
        code = slot->run();
        ++runs;
        good += code == Code::kOk;
        for (size_t k = 0; k < session.outputs().size() && code == Code::kOk; ++k) {
          const TensorView& view = slot->output(k);
          if (view.data == nullptr) return 3;
          volatile uint8_t sum = 0;
          for (size_t b = 0; b < view.bytes(); ++b) sum += static_cast<uint8_t*>(view.data)[b];
        }
    }
    if (code != Code::kOk) {
      ++refused;
      if (std::strlen(slot->message()) == 0) return 4;
    }
  }
  std::printf("%d calls, %ld refused, %ld of %ld runs succeeded\n", count, refused, good, runs);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 4) return fuzz(std::stoul(arguments[2]), std::stoi(arguments[3]));
  std::string line;
  while (std::getline(std::cin, line)) {
    Json result;
    try {
      result["answer"] = answer(Json::parse(line));
    } catch (const Error& error) {
      result["error"] = {static_cast<int>(error.code()), error.what()};
    }
    std::cout << result.dump() << std::endl;
  }
  slots.clear();
  values.clear();
  sessions.clear();
}
