// Reads states and loops of a manifest: mmedge/schema/loops.py.
#include "schema/fields.h"
#include "schema/names.h"

namespace mmedge::runtime {
namespace {

// Most tokens that a loop may state as its limit, and most rows of a schedule.
constexpr int64_t kMaxLimit = int64_t{1} << 20;
constexpr size_t kMaxSteps = 4096;
// Largest magnitude of a number in a schedule, of a clip and of a guidance.
constexpr double kMaxCoefficient = 1e6;

Limits coefficient() {
  Limits limits;
  limits.least = -kMaxCoefficient;
  limits.most = kMaxCoefficient;
  return limits;
}

Limits above_zero(double most) {
  Limits limits;
  limits.above = 0;
  limits.most = most;
  return limits;
}

std::vector<int64_t> read_tokens(JsonValue value, const Place& where, size_t most = 4096) {
  const size_t count = read_list(value, where, 0, most);
  std::vector<int64_t> tokens;
  tokens.reserve(count);
  JsonValue item = value.first();
  for (size_t i = 0; i < count; ++i, item = item.next()) {
    tokens.push_back(read_integer(item, Place(where, i), 0, kMaxElements));
  }
  return tokens;
}

GenerateLoop read_generate(JsonValue value, const Place& where, int version) {
  // Version 5 has no `whole_prompt`, the last field.
  const Record fields(
      value, where,
      {"kind", "stage", "token", "logits", "limit", "position", "start", "stop", "suppress",
       "suppress_first", "temperature", "top_k", "top_p", "tokenizer", "whole_prompt"},
      version < 6 ? 1u << 14 : 0);
  GenerateLoop loop;
  loop.stage = read_name(fields[1], fields.at(1));
  loop.token = read_tensor_name(fields[2], fields.at(2));
  loop.logits = read_tensor_name(fields[3], fields.at(3));
  loop.limit = read_integer(fields[4], fields.at(4), 1, kMaxLimit);
  loop.position = read_tensor_name_or_null(fields[5], fields.at(5));
  loop.start = read_tokens(fields[6], fields.at(6));
  loop.stop = read_tokens(fields[7], fields.at(7));
  loop.suppress = read_tokens(fields[8], fields.at(8), kMaxLimit);
  loop.suppress_first = read_tokens(fields[9], fields.at(9), kMaxLimit);
  Limits temperature;
  temperature.least = 0;
  temperature.most = 100;
  loop.temperature = read_number(fields[10], fields.at(10), temperature);
  loop.top_k = read_integer(fields[11], fields.at(11), 0, kMaxElements);
  loop.top_p = read_number(fields[12], fields.at(12), above_zero(1));
  if (!fields[13].is_null()) loop.tokenizer = read_path(fields[13], fields.at(13));
  if (fields.has(14)) loop.whole_prompt = read_boolean(fields[14], fields.at(14));
  return loop;
}

std::array<double, 9> read_row(JsonValue value, const Place& where) {
  std::array<double, 9> row{};
  read_list(value, where, row.size(), row.size());
  JsonValue item = value.first();
  for (size_t i = 0; i < row.size(); ++i, item = item.next()) {
    row[i] = read_number(item, Place(where, i), coefficient());
  }
  return row;
}

DenoiseLoop read_denoise(JsonValue value, const Place& where) {
  const Record fields(value, where,
                      {"kind", "stage", "latent", "time", "prediction", "schedule", "initial_scale",
                       "clip", "guidance", "unconditional", "decoder"});
  DenoiseLoop loop;
  loop.stage = read_name(fields[1], fields.at(1));
  loop.latent = read_tensor_name(fields[2], fields.at(2));
  loop.time = read_tensor_name(fields[3], fields.at(3));
  loop.prediction = read_tensor_name(fields[4], fields.at(4));
  const Place schedule = fields.at(5);
  const size_t steps = read_list(fields[5], schedule, 1, kMaxSteps);
  JsonValue row = fields[5].first();
  for (size_t i = 0; i < steps; ++i, row = row.next()) {
    loop.schedule.push_back(read_row(row, Place(schedule, i)));
  }
  loop.initial_scale = read_number(fields[6], fields.at(6), above_zero(kMaxCoefficient));
  if (!fields[7].is_null()) {
    loop.clip = read_number(fields[7], fields.at(7), above_zero(kMaxCoefficient));
  }
  if (!fields[8].is_null()) loop.guidance = read_number(fields[8], fields.at(8), coefficient());
  loop.unconditional = read_tensor_names(fields[9], fields.at(9));
  loop.decoder = read_name_or_null(fields[10], fields.at(10));
  return loop;
}

}  // namespace

StateSpec read_state(JsonValue value, const Place& where) {
  const Record fields(value, where, {"stage", "input", "output", "axis", "initial", "source"});
  StateSpec state;
  state.stage = read_name(fields[0], fields.at(0));
  state.input = read_tensor_name(fields[1], fields.at(1));
  state.output = read_tensor_name(fields[2], fields.at(2));
  if (!fields[3].is_null()) state.axis = read_integer(fields[3], fields.at(3), 0, kMaxRank - 1);
  state.initial = static_cast<Initial>(
      read_option(fields[4], fields.at(4), {"empty", "zeros", "stored", "output"}));
  state.source = read_tensor_name_or_null(fields[5], fields.at(5));
  return state;
}

Loop read_loop(JsonValue value, const Place& where, int version) {
  const auto kind = read_object(value, where).find("kind");
  if (kind && kind->equals("generate")) return read_generate(value, where, version);
  if (kind && kind->equals("denoise")) return read_denoise(value, where);
  // Refused by its name: run once through, its stage would answer wrongly and say nothing.
  throw Misfit(Place(where, "kind").text(),
               "a loop that this version of mmedge runs: generate or denoise",
               (kind ? show(*kind) : "null") + "; upgrade mmedge");
}

}  // namespace mmedge::runtime
