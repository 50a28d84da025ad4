// A table of functions of the application as a backend of the runtime: mmedge/backend.h.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/buffered_slot.h"
#include "backends/cores.h"
#include "handles.h"
#include "own_backend.h"

namespace mmedge::api {
namespace {

// A copy of the table: the caller's may go.
struct Table {
  mmedge_backend functions;
  std::string name;
  std::vector<std::string> targets;

  const char* message() const noexcept {
    const char* text = functions.message(functions.user);
    return text != nullptr ? text : "it gives no reason";
  }
};

[[noreturn]] void throw_failure(const std::string& where, const Table& table) {
  throw rt::Error(rt::Code::kBackend,
                  where + ": " + table.name + " failed: " + table.message());
}

class OwnSlot final : public rt::BufferedSlot {
 public:
  OwnSlot(const Table& table, void* stage, const std::string& where,
          const std::vector<rt::TensorSpec>& inputs, const std::vector<rt::TensorSpec>& outputs)
      : BufferedSlot(where, table.name.c_str(), inputs, outputs), table_(table) {
    const mmedge_backend& calls = table.functions;
    if (calls.make_slot(calls.user, stage, &slot_) != MMEDGE_OK) throw_failure(where, table);
  }
  ~OwnSlot() override { table_.functions.close_slot(table_.functions.user, slot_); }

 protected:
  rt::Code bind(size_t index, const rt::TensorView& view) noexcept override {
    mmedge_tensor tensor{};
    tensor.data = view.data;
    tensor.bytes = view.bytes();
    tensor.dtype = to_dtype(view.dtype);
    tensor.rank = static_cast<int32_t>(view.rank);
    for (size_t axis = 0; axis < view.rank; ++axis) tensor.shape[axis] = view.shape[axis];
    const mmedge_backend& calls = table_.functions;
    return check(calls.set_input(calls.user, slot_, static_cast<int32_t>(index), &tensor));
  }

  rt::Code compute() noexcept override {
    return check(table_.functions.run(table_.functions.user, slot_));
  }

  rt::Code read(size_t index, rt::TensorView* view) noexcept override {
    mmedge_tensor tensor{};
    tensor.name = output_specs_[index].name.c_str();
    const mmedge_backend& calls = table_.functions;
    const rt::Code code =
        check(calls.output(calls.user, slot_, static_cast<int32_t>(index), &tensor));
    if (code != rt::Code::kOk) return code;
    rt::NamedTensor named;
    mmedge_status status = MMEDGE_OK;
    if (!to_tensor(tensor, &named, &status)) {
      return fail(rt::Code::kBackend, "%s gave output '%s' no dtype, rank or "
                                    "shape of a bundle's", engine_, tensor.name);
    }
    *view = named.view;
    return rt::Code::kOk;
  }

 private:
  rt::Code check(mmedge_status status) noexcept {
    if (status == MMEDGE_OK) return rt::Code::kOk;
    return fail(rt::Code::kBackend, "%s failed: %s", engine_, table_.message());
  }

  const Table& table_;
  void* slot_ = nullptr;
};

class OwnSession final : public rt::Session {
 public:
  OwnSession(std::shared_ptr<const Table> table, const rt::StageSource& source)
      : table_(std::move(table)), where_(source.where()) {
    inputs_ = source.inputs;
    outputs_ = source.stage->outputs;
  }
  ~OwnSession() override {
    if (stage_ != nullptr) table_->functions.close_stage(table_->functions.user, stage_);
  }

  void open(const rt::StageSource& source, const rt::SessionOptions& options) {
    if (source.cache_loop != nullptr) {
      throw rt::Error(rt::Code::kBackend, where_ + ": it writes to a cache in place, which ONNX "
                                          "Runtime alone does; load another variant");
    }
    mmedge_stage_source to{};
    to.struct_size = sizeof to;
    const std::string variant = source.variant->id();
    to.stage = source.stage->name.c_str();
    to.variant = variant.c_str();
    to.target = source.variant->target.c_str();
    to.precision = source.variant->precision.c_str();
    if (!source.path.empty()) {
      to.path = source.path.c_str();
    } else {
      to.graph = source.graph.data;
      to.graph_bytes = source.graph.size;
    }
    std::vector<mmedge_stage_file> files;
    for (const auto& [name, bytes] : source.weights) {
      files.push_back({name.c_str(), bytes.data, bytes.size});
    }
    to.files = files.data();
    to.file_count = static_cast<int32_t>(files.size());
    const std::vector<mmedge_tensor_spec> inputs = describe_all(inputs_);
    const std::vector<mmedge_tensor_spec> outputs = describe_all(outputs_);
    to.inputs = inputs.data();
    to.input_count = static_cast<int32_t>(inputs.size());
    to.outputs = outputs.data();
    to.output_count = static_cast<int32_t>(outputs.size());
    to.threads = rt::stage_threads(*source.stage, source.alone, options.threads).value_or(0);
    to.alone = source.alone;
    to.run_timeout_s = options.run_timeout_s.value_or(0);
    const mmedge_backend& calls = table_->functions;
    if (calls.open_stage(calls.user, &to, &stage_) != MMEDGE_OK) {
      stage_ = nullptr;  // nothing to close
      throw_failure(where_, *table_);
    }
  }

  std::unique_ptr<rt::RunSlot> make_slot() override {
    return std::make_unique<OwnSlot>(*table_, stage_, where_, inputs_, outputs_);
  }

 private:
  static std::vector<mmedge_tensor_spec> describe_all(const std::vector<rt::TensorSpec>& specs) {
    std::vector<mmedge_tensor_spec> all(specs.size(), MMEDGE_TENSOR_SPEC);
    for (size_t i = 0; i < specs.size(); ++i) describe(specs[i], &all[i]);
    return all;
  }

  const std::shared_ptr<const Table> table_;
  const std::string where_;
  void* stage_ = nullptr;
};

}  // namespace

rt::Backend make_own_backend(const mmedge_backend* from) {
  if (from == nullptr || !has_size(from)) {
    throw rt::Error(rt::Code::kInput,
                    "a backend is NULL or has another struct_size than this library expects; make it "
                    "with MMEDGE_BACKEND, and build the caller and the library from one version");
  }
  auto table = std::make_shared<Table>(Table{*from, from->name != nullptr ? from->name : "", {}});
  const mmedge_backend& calls = table->functions;
  if (table->name.empty() || !calls.version || !calls.message || !calls.open_stage ||
      !calls.close_stage || !calls.make_slot || !calls.close_slot || !calls.set_input ||
      !calls.run || !calls.output) {
    throw rt::Error(rt::Code::kInput, "backend '" + table->name +
                                          "': a name and all functions but `missing` have to be set");
  }
  for (int32_t i = 0; i < from->target_count && from->targets != nullptr; ++i) {
    table->targets.emplace_back(from->targets[i] != nullptr ? from->targets[i] : "");
  }
  if (table->targets.empty()) table->targets.emplace_back("cpu");
  rt::Backend backend;
  backend.name = table->name;
  backend.of_application = true;
  backend.limits_runs = calls.limits_runs != 0;
  backend.context = table;
  backend.version = [](void* context) -> std::string {
    const mmedge_backend& calls = static_cast<Table*>(context)->functions;
    const char* text = calls.version(calls.user);
    return text != nullptr ? text : "";
  };
  backend.missing = [](void* context) -> std::map<std::string, std::string> {
    const Table& table = *static_cast<Table*>(context);
    const char* why = nullptr;
    if (table.functions.missing) why = table.functions.missing(table.functions.user);
    if (why == nullptr) return {};
    return {{table.name, why}};
  };
  backend.targets = [](void* context) { return static_cast<Table*>(context)->targets; };
  backend.open_stage = [](void* context, const rt::StageSource& source,
                          const rt::SessionOptions& options) -> std::unique_ptr<rt::Session> {
    // The session outlives the backend.
    auto session = std::make_unique<OwnSession>(
        std::make_shared<const Table>(*static_cast<Table*>(context)), source);
    session->open(source, options);
    return session;
  };
  return backend;
}

}  // namespace mmedge::api
