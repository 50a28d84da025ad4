// Reads golden samples, by the keys that a manifest asks for.
#include "bundle/samples.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <set>
#include <utility>

#include "bundle/safetensors.h"
#include "bundle/sample_checks.h"
#include "error.h"
#include "schema/constraints.h"
#include "schema/read.h"

namespace mmedge::runtime {

namespace {

using Specs = std::vector<std::pair<std::string, TensorSpec>>;  // end of a key, and what is there

// What a manifest asks of the file. Keys of a sample are its number and these ends.
struct Expected {
  Specs network;  // in a sample, one dynamic dimension has one size here
  Specs step;     // and one here: a step's tokens are not as many as those that a call begins with
  Specs loop;
  std::vector<std::string> outputs;  // names
  std::map<std::string, TensorSpec> tokens;         // whole keys from here on
  std::map<std::string, TensorSpec> stored;         // states, and what is unconditional
};

Axis dynamic(const std::string& dimension) {
  Axis axis;
  axis.dimension = dimension;
  return axis;
}

// What a run of the loop gave, by the ends of keys.
Specs loop_specs(const Manifest& manifest, const std::map<std::string, TensorSpec>& outputs) {
  if (const auto* generate = std::get_if<GenerateLoop>(&manifest.loop)) {
    TensorSpec tokens, logits = outputs.at(generate->logits);
    tokens.dtype = DType::kInt64;
    tokens.shape = {logits.shape.front(), dynamic(kAnySize)};
    logits.shape = {logits.shape.front(), dynamic(kAnySize), logits.shape.back()};
    return {{".loop.tokens", tokens}, {".loop.logits", logits}};
  }
  if (const auto* denoise = std::get_if<DenoiseLoop>(&manifest.loop)) {
    const TensorSpec noise = manifest.step_inputs().at(denoise->latent);
    TensorSpec latents = noise;
    // After the first step, the middle one and the last.
    Axis three;
    three.size = 3;
    latents.shape.insert(latents.shape.begin(), three);
    return {{".loop.noise", noise}, {".loop.latents", latents}};
  }
  return {};
}

Expected expected_of(const Manifest& manifest) {
  Expected expected;
  std::map<std::string, TensorSpec> inputs, outputs;
  for (const TensorSpec& spec : manifest.inputs()) inputs[spec.name] = spec;
  for (const Stage& stage : manifest.stages) {
    for (const TensorSpec& spec : stage.outputs) outputs[spec.name] = spec;
  }
  std::set<std::string> in_loop;
  for (const Stage* stage : manifest.loop_stages()) {
    for (const TensorSpec& spec : stage->outputs) in_loop.insert(spec.name);
  }
  for (const Modality& modality : manifest.modalities) {
    if (modality.absent != Absent::kToken || modality.required) continue;
    for (const std::string& name : modality.inputs) {
      expected.tokens["absent." + name] = inputs.at(name);
    }
  }
  const auto* generate = std::get_if<GenerateLoop>(&manifest.loop);
  for (auto [name, spec] : inputs) {
    // A call begins with any number of tokens, also where one run takes a fixed number.
    const bool is_token = generate != nullptr && generate->token == name;
    if (is_token && (spec.shape.size() < 2 || !spec.shape[1].is_dynamic())) {
      spec.shape = {spec.shape.at(0), dynamic(kAnySize)};
    }
    expected.network.emplace_back(".in." + name, std::move(spec));
  }
  const std::map<std::string, TensorSpec> step = manifest.step_inputs();
  for (const auto& [name, spec] : step) expected.step.emplace_back(".step." + name, spec);
  for (const auto& [name, spec] : outputs) {
    expected.outputs.push_back(name);
    if (in_loop.count(name) == 0) {
      expected.network.emplace_back(".out." + name, spec);
    } else if (!step.empty()) {
      expected.step.emplace_back(".out." + name, spec);
    }
  }
  expected.loop = loop_specs(manifest, outputs);
  for (const StateSpec& state : manifest.states) {
    if (state.initial == Initial::kStored) {
      expected.stored["state." + state.input] = step.at(state.input);
    }
  }
  if (const auto* denoise = std::get_if<DenoiseLoop>(&manifest.loop)) {
    for (const std::string& name : denoise->unconditional) {
      expected.stored["unconditional." + name] = outputs.at(name);
    }
  }
  return expected;
}

void check_keys(const TensorMap& tensors, const Expected& expected, int64_t samples,
                const std::string& source) {
  std::set<std::string> keys;
  for (int64_t i = 0; i < samples; ++i) {
    const std::string number = std::to_string(i);
    for (const Specs* specs : {&expected.network, &expected.step, &expected.loop}) {
      for (const auto& [end, spec] : *specs) keys.insert(number + end);
    }
  }
  for (const auto* specs : {&expected.tokens, &expected.stored}) {
    for (const auto& [key, spec] : *specs) keys.insert(key);
  }
  const auto refuse = [&source](const char* fault, const std::string& key) {
    throw Error(Code::kBundle,
                source + ": " + fault + " tensor " + show(key) + "; export the bundle again");
  };
  for (const std::string& key : keys) {
    if (tensors.count(key) == 0) refuse("missing", key);
  }
  for (const auto& [key, tensor] : tensors) {
    if (keys.count(key) == 0) refuse("unknown", key);
  }
}

void check(const TensorMap& tensors, const Expected& expected, const Manifest& manifest,
           const std::string& source) {
  check_keys(tensors, expected, manifest.samples, source);
  const auto where = [&source](const std::string& key) { return source + ": tensor '" + key + "'"; };
  const Relations relations(manifest.dimensions, manifest.constraints);
  for (int64_t i = 0; i < manifest.samples; ++i) {
    const std::string number = std::to_string(i);
    for (const Specs* group : {&expected.network, &expected.step}) {
      Sizes sizes;
      for (const auto& [end, spec] : *group) {
        check_tensor(tensors.at(number + end), spec, manifest, &sizes, where(number + end));
      }
      const std::string broken = relations.fault(sizes);
      if (!broken.empty()) {
        throw Error(Code::kBundle, source + ": golden sample " + number + ": " + broken);
      }
    }
  }
  for (const auto& [key, spec] : expected.tokens) {
    check_token(tensors.at(key), spec, manifest, where(key));
  }
  for (const auto& [key, spec] : expected.stored) {
    Sizes sizes;
    check_tensor(tensors.at(key), spec, manifest, &sizes, where(key));
  }
  for (int64_t i = 0; i < manifest.samples; ++i) {
    for (const auto& [end, spec] : expected.loop) {
      const std::string key = std::to_string(i) + end;
      // A run may stop before any token, but its first scores are there.
      check_run(tensors.at(key), spec, end == ".loop.tokens", where(key));
    }
  }
  for (const std::string& name : expected.outputs) {
    std::vector<const TensorView*> golden;
    for (int64_t i = 0; i < manifest.samples; ++i) {
      const auto found = tensors.find(std::to_string(i) + ".out." + name);
      if (found != tensors.end()) golden.push_back(&found->second);
    }
    check_numbers(golden, name, source);
  }
}

// Copies what does not begin at a multiple of kTensorAlignment into memory of the result.
void align(TensorMap* tensors, Samples* samples) {
  const auto is_aligned = [](const TensorView& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.data) % kTensorAlignment == 0;
  };
  const auto room = [](const TensorView& tensor) {
    return (tensor.bytes() + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  };
  size_t total = kTensorAlignment;
  for (const auto& [key, tensor] : *tensors) total += is_aligned(tensor) ? 0 : room(tensor);
  samples->memory.reset(static_cast<uint8_t*>(std::aligned_alloc(kTensorAlignment, total)));
  if (!samples->memory) throw std::bad_alloc();
  uint8_t* place = samples->memory.get();
  for (auto& [key, tensor] : *tensors) {
    if (is_aligned(tensor)) continue;
    if (tensor.bytes() > 0) std::memcpy(place, tensor.data, tensor.bytes());
    tensor.data = place;
    place += room(tensor);
  }
}

}  // namespace

Samples read_samples(Bytes data, const Manifest& manifest, const std::string& source) {
  const Expected expected = expected_of(manifest);
  const size_t in_sample = expected.network.size() + expected.step.size() + expected.loop.size();
  const size_t count = in_sample * static_cast<size_t>(manifest.samples) +
                       expected.tokens.size() + expected.stored.size();
  // A few more than are expected, so that an error can name one.
  TensorMap tensors = read_sample_tensors(data, count + 1024, source);
  check(tensors, expected, manifest, source);
  Samples samples;
  align(&tensors, &samples);
  const auto take = [&tensors](const std::string& prefix, const std::string& key, TensorMap* map) {
    (*map)[key.substr(prefix.size())] = tensors.at(key);
  };
  samples.golden.resize(static_cast<size_t>(manifest.samples));
  for (size_t i = 0; i < samples.golden.size(); ++i) {
    Sample& sample = samples.golden[i];
    const std::pair<const char*, TensorMap*> maps[] = {{".in.", &sample.inputs},
                                                       {".out.", &sample.outputs},
                                                       {".step.", &sample.step},
                                                       {".loop.", &sample.loop}};
    for (const auto& [middle, map] : maps) {
      const std::string prefix = std::to_string(i) + middle;
      for (const Specs* specs : {&expected.network, &expected.step, &expected.loop}) {
        for (const auto& [end, spec] : *specs) {
          if (end.compare(0, std::strlen(middle), middle) == 0) {
            take(prefix, std::to_string(i) + end, map);
          }
        }
      }
    }
  }
  for (const auto& [key, spec] : expected.tokens) take("absent.", key, &samples.absent);
  for (const auto& [key, spec] : expected.stored) {
    const bool is_state = key.compare(0, 6, "state.") == 0;
    take(is_state ? "state." : "unconditional.", key,
         is_state ? &samples.states : &samples.unconditional);
  }
  return samples;
}

}  // namespace mmedge::runtime
