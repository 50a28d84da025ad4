// mmedge-replay BUNDLE RECORDING: plays what sensors pushed through a stream, and writes its results.
//
// Time is simulated: each sample is pushed at its recorded arrival, and stages take none. So one
// recording gives the same lines each time, and `mmedge replay --simulated` writes the same in Python.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "error.h"
#include "mmedge/mmedge.hpp"
#include "player.h"
#include "recording/sample.h"
#include "recording/timeline.h"
#include "schema/manifest.h"
#include "survey.h"
#include "trust.h"

namespace {

namespace rt = mmedge::runtime;
namespace tools = mmedge::tools;

constexpr const char* kHelp =
    "usage: mmedge-replay [options] --trigger NAME BUNDLE RECORDING\n"
    "\n"
    "Plays a recording (a folder or an MCAP file) through a stream on a simulated clock, on which\n"
    "stages take no time, and writes each result as a line of JSON. `mmedge replay --simulated` of\n"
    "the Python runtime writes the same lines.\n"
    "\n"
    "  --trigger NAME      what a result is made for: a modality, any, or a rate in Hz\n"
    "  --deadline MS       from a trigger to its result\n"
    "  --skip-gaps         leave a second of each time of over 10 s without any sample\n"
    "  --largest NAME=N    largest size of a dimension that has none in the bundle; default: what\n"
    "                      the recording has\n"
    "  --variant ID        such as ort-int8-cpu; default: the best that runs here\n"
    "  --threads N         most threads of a stage\n"
    "  --onnxruntime PATH  ONNX Runtime's library, or a folder that holds it\n"
    "  --openvino PATH     the same of OpenVINO\n"
    "%s"
    "\n"
    "Exit code: 0 all of it was played, 1 it could not be: a message says why; 2 wrong options.\n";

struct Options {
  mmedge_load_options load = mmedge::load_options();
  tools::Trust trust;
  std::string trigger;
  double trigger_hz = 0;  // where the trigger is a number
  double deadline_ms = 0;
  bool skip_gaps = false;
  std::map<std::string, int64_t> largest;
  std::vector<std::string> paths;
  bool is_help = false;
};

bool read_number(const std::string& text, double* value) {
  const auto read = std::from_chars(text.data(), text.data() + text.size(), *value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

bool read_whole(const std::string& text, int64_t* value) {
  const auto read = std::from_chars(text.data(), text.data() + text.size(), *value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size() && *value > 0;
}

bool read_largest(const std::string& text, std::map<std::string, int64_t>* largest) {
  const size_t equals = text.rfind('=');
  int64_t size = 0;
  if (equals == std::string::npos || !read_whole(text.substr(equals + 1), &size)) return false;
  (*largest)[text.substr(0, equals)] = size;
  return true;
}

// What is wrong with the words of the command line; empty: nothing is.
std::string read_words(int count, char** words, Options* options) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--help" || word == "-h") return options->is_help = true, "";
    if (word == "--skip-gaps") {
      options->skip_gaps = true;
      continue;
    }
    if (word.rfind("--", 0) != 0) {
      options->paths.push_back(word);
      continue;
    }
    if (i + 1 == count) return word + ": unknown, or a value is missing";
    const char* value = words[++i];
    int64_t threads = 0;
    if (word == "--trigger") {
      options->trigger = value;
      if (read_number(value, &options->trigger_hz)) {
        if (!(options->trigger_hz > 0) || std::isinf(options->trigger_hz)) {
          return "--trigger: expected a modality, any, or a rate above 0 Hz; got " +
                 std::string(value);
        }
        options->trigger.clear();
      }
    } else if (word == "--deadline") {
      if (!read_number(value, &options->deadline_ms) || !(options->deadline_ms > 0) ||
          std::isinf(options->deadline_ms)) {
        return "--deadline: expected milliseconds above 0, got " + std::string(value);
      }
    } else if (word == "--largest") {
      if (!read_largest(value, &options->largest)) {
        return "--largest: expected NAME=N, got " + std::string(value);
      }
    } else if (tools::Trust::has(word)) {
      if (!options->trust.take(word, value)) {
        return word + ": expected a number from 0, got " + std::string(value);
      }
    } else if (word == "--variant") {
      options->load.variant = value;
    } else if (word == "--onnxruntime") {
      options->load.onnxruntime = value;
    } else if (word == "--openvino") {
      options->load.openvino = value;
    } else if (word == "--threads") {
      if (!read_whole(value, &threads) || threads > INT32_MAX) {
        return "--threads: expected a number above 0, got " + std::string(value);
      }
      options->load.threads = static_cast<int32_t>(threads);
    } else {
      return word + ": unknown";
    }
  }
  if (options->paths.size() != 2) return "expected a bundle and a recording";
  if (options->trigger.empty() && options->trigger_hz == 0) {
    return "--trigger is missing: a modality, any, or a rate in Hz";
  }
  return "";
}

[[noreturn]] void fail(const mmedge::Failure& failure) {
  throw rt::Error(rt::Code::kBackend, failure.message);
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Places of the recording's modalities in the bundle. Throws Error(kInput): it does not fit.
std::vector<size_t> match_modalities(const tools::Recording& recording,
                                     const rt::Manifest& manifest, const std::string& trigger) {
  std::vector<std::string> names;
  for (const rt::Modality& modality : manifest.modalities) names.push_back(modality.name);
  std::vector<size_t> places;
  for (const std::string& name : recording.modalities) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      throw tools::refusal(recording.name, "modality '" + name + "' is none of bundle '" +
                                               manifest.name + "', which has " + listed(names) +
                                               "; the recording was made for '" +
                                               recording.bundle + "'");
    }
    places.push_back(static_cast<size_t>(found - names.begin()));
  }
  const auto& there = recording.modalities;
  if (std::find(names.begin(), names.end(), trigger) != names.end() &&
      std::find(there.begin(), there.end(), trigger) == there.end()) {
    throw tools::refusal(recording.name, "no samples of '" + trigger +
                                             "', which is to trigger; the recording has " +
                                             listed(there));
  }
  return places;
}

// Loads the plan that a stream runs: "cut" where the variant has it.
mmedge::Pipeline load(const mmedge::Bundle& bundle, const rt::Manifest& manifest,
                      mmedge_load_options options) {
  auto pipeline = mmedge::Pipeline::load(bundle, options);
  if (!pipeline) fail(pipeline.error());
  const mmedge_choice choice = pipeline->choice();
  const std::string id = choice.variant;
  for (const rt::Variant& variant : manifest.variants) {
    if (variant.id() != id) continue;
    const std::vector<std::string> plans = manifest.plan_names(&variant);
    const bool has_cut = std::find(plans.begin(), plans.end(), "cut") != plans.end();
    const char* plan = has_cut ? "cut" : "whole";
    if (std::strcmp(choice.plan, plan) == 0) break;
    options.variant = id.c_str();
    options.plan = plan;
    pipeline = mmedge::Pipeline::load(bundle, options);
    if (!pipeline) fail(pipeline.error());
    break;
  }
  return std::move(*pipeline);
}

void play(const Options& options) {
  const std::unique_ptr<tools::Recording> recording = tools::open_recording(options.paths[1]);
  auto bundle = options.trust.open(options.paths[0]);
  if (!bundle) fail(bundle.error());
  const std::string text = bundle->manifest();
  const rt::Manifest manifest = rt::manifest_from_json(
      {reinterpret_cast<const uint8_t*>(text.data()), text.size()}, options.paths[0]);
  const auto* generate = std::get_if<rt::GenerateLoop>(&manifest.loop);
  if (generate != nullptr && generate->tokenizer) {
    throw tools::refusal(options.paths[0],
                         "bundle '" + manifest.name + "' makes texts of its tokens, which this tool "
                         "does not; play the recording with mmedge replay --simulated");
  }
  const std::vector<size_t> places = match_modalities(*recording, manifest, options.trigger);

  // Before anything takes time: a recording that cannot be played is refused at once.
  tools::Survey survey(*recording, manifest, places);
  const tools::Timeline timeline = tools::read_timeline(
      *recording, [&](const tools::Recorded& sample) { survey.look(sample); });
  survey.check_texts(timeline.samples);
  const bool skips = options.skip_gaps && !timeline.gaps.empty();
  if (skips) tools::check_gaps(*recording, timeline);

  mmedge::Pipeline pipeline = load(*bundle, manifest, options.load);
  const mmedge_choice choice = pipeline.choice();
  tools::Played played;
  played.bundle = manifest.name;
  played.digest = bundle->digest();
  played.recording = recording->name;
  played.variant = choice.variant;
  played.plan = choice.plan;
  played.trigger = options.trigger;
  played.trigger_hz = options.trigger_hz;
  if (options.deadline_ms > 0) played.deadline_ms = options.deadline_ms;
  if (timeline.samples > 0) played.origin = timeline.origin;
  played.missing = recording->missing;
  if (skips) {
    char note[80];
    std::snprintf(note, sizeof note, "%zu gaps of %.4g s in all skipped", timeline.gaps.size(),
                  timeline.silent());
    played.missing += (played.missing.empty() ? "" : "; ") + std::string(note);
  }

  tools::Trigger trigger;
  trigger.name = options.trigger;
  trigger.hz = options.trigger_hz;
  trigger.deadline_ms = options.deadline_ms;
  tools::Player player(pipeline.handle(), manifest, trigger, survey.largest(options.largest));
  player.lines().write_first(played);
  int64_t number = 0;
  const auto push = [&](const tools::Recorded& sample) {
    const size_t place = places[sample.modality];
    try {
      player.push(place, sample.value, sample.arrival - timeline.origin,
                  sample.t - timeline.origin);
    } catch (const rt::Error& error) {
      throw tools::refusal(recording->name + ": sample " + std::to_string(number) + " of '" +
                               manifest.modalities[place].name + "'",
                           error.what());
    }
    ++number;
  };
  if (skips) {
    tools::read_without_gaps(*recording, timeline, push);
  } else {
    recording->read(push);
  }
  player.finish();
}

}  // namespace

int main(int count, char** words) {
  Options options;
  const std::string fault = read_words(count, words, &options);
  if (options.is_help) return std::printf(kHelp, tools::Trust::kHelp), 0;
  if (!fault.empty()) {
    std::fprintf(stderr, "mmedge-replay: %s\n\n", fault.c_str());
    std::fprintf(stderr, kHelp, tools::Trust::kHelp);
    return 2;
  }
  try {
    play(options);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "mmedge-replay: %s\n", error.what());
    return 1;
  }
  return 0;
}
