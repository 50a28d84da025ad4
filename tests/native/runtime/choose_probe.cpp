// Variants and plans on devices: reads conformance/cases/choices/choices.json (the first
// argument) with the bundles in the folder of the second, and prints a row of JSON for each case.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bundle/bundle.h"
#include "bundle/choose.h"
#include "error.h"

using nlohmann::json;
namespace rt = mmedge::runtime;

namespace {

rt::Device read_device(const json& tree) {
  rt::Device device;
  device.name = tree["name"];
  device.backends = tree["backends"].get<std::vector<std::string>>();
  device.targets = tree["targets"].get<std::vector<std::string>>();
  device.missing = tree["missing"].get<std::map<std::string, std::string>>();
  device.libraries = tree["libraries"].get<std::map<std::string, std::string>>();
  device.cores = tree["cores"];
  return device;
}

json rows_of(const std::vector<rt::Decision>& decisions) {
  json rows = json::array();
  for (const rt::Decision& decision : decisions) {
    rows.push_back({{"variant", decision.variant},
                    {"accepted", decision.accepted},
                    {"reason", decision.reason}});
  }
  return rows;
}

std::string text(const json& options, const char* name) { return options.value(name, ""); }

const char* name_of(rt::Code code) {
  return code == rt::Code::kNoVariant ? "NoVariantError" : "InputError";
}

// Rows end where something is refused, as in Python.
json choose(const rt::Manifest& manifest, const rt::Device& device, const json& options) {
  const rt::Wish wish{text(options, "variant"), text(options, "backend"),
                      text(options, "precision")};
  json row;
  rt::Device here;
  rt::Choice choice;
  try {
    here = rt::restrict_device(device, text(options, "target"));
    choice = rt::select(manifest, here, wish, "");
  } catch (const rt::Error& error) {
    row["error"] = name_of(error.code());
    if (error.code() == rt::Code::kNoVariant) {
      row["decisions"] = rows_of(rt::choose(manifest, here, wish).decisions);
    }
    return row;
  }
  row["variant"] = choice.variant->id();
  row["decisions"] = rows_of(choice.decisions);
  rt::PlanChoice plan;
  try {
    plan = rt::choose_plan(manifest, *choice.variant, device, text(options, "plan"));
  } catch (const rt::Error& error) {
    row["error"] = name_of(error.code());
    return row;
  }
  row["plan"] = plan.plan;
  row["why_plan"] = plan.reason;
  row["verified_at_load"] = !rt::is_proven(manifest, *choice.variant);
  return row;
}

}  // namespace

int main(int, char** arguments) {
  std::ifstream file(arguments[1]);
  const json content = json::parse(file);
  std::map<std::string, std::shared_ptr<rt::Bundle>> bundles;
  for (const json& each : content["cases"]) {
    const std::string name = each["bundle"];
    std::shared_ptr<rt::Bundle>& bundle = bundles[name];
    if (bundle == nullptr) {
      bundle = rt::Bundle::open(std::string(arguments[2]) + "/" + name + ".mmedge");
    }
    const rt::Device device = read_device(content["devices"][each["device"].get<std::string>()]);
    const json row = choose(bundle->manifest(), device, each["options"]);
    std::printf("%s\n", row.dump().c_str());
  }
}
