// A multi-rate run of a bundle.
#include "stream/stream.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

namespace mmedge::runtime::stream {
namespace {

// Alarms that were planned and have not rung: most of them are of triggers that are done with.
constexpr size_t kMostAlarms = 256;

// The stages that a stream runs.
std::vector<const Stage*> stages_of(const Manifest& manifest, const StreamOptions& options) {
  const std::vector<std::string> plans = manifest.plan_names();
  std::string plan = options.plan;
  if (plan.empty()) {
    plan = std::find(plans.begin(), plans.end(), "cut") != plans.end() ? "cut" : "whole";
  } else if (std::find(plans.begin(), plans.end(), plan) == plans.end()) {
    throw Error(Code::kInput, "bundle '" + manifest.name + "' has no plan '" + plan + "'");
  }
  return manifest.in_order(plan);
}

const Manifest& check_bundle(const Manifest& manifest, const StreamOptions& options) {
  if (!std::holds_alternative<std::monostate>(manifest.loop)) {
    throw Error(Code::kInput, "bundle '" + manifest.name +
                                  "' has a loop, which streams in C++ do not run; stream it with "
                                  "the runtime in Python");
  }
  for (const Stage* stage : stages_of(manifest, options)) {
    for (const StateSpec& state : manifest.states) {
      if (state.stage != stage->name) continue;
      throw Error(Code::kInput, "stage '" + stage->name +
                                    "' has a state, which streams in C++ do not keep; stream the "
                                    "bundle with the runtime in Python");
    }
  }
  check_options(options, manifest);
  return manifest;
}

}  // namespace

Stream::Stream(const Manifest& manifest, StageRunner* runner, const StreamOptions& options,
               Clock clock, double start)
    : clock_(clock),
      now_(start),
      table_(check_bundle(manifest, options)),
      rules_(manifest) {
  const TriggerPlan triggers = read_trigger(options, manifest);
  const size_t count = manifest.modalities.size();
  const std::vector<TensorSpec> specs = manifest.inputs();
  layouts_.reserve(count);  // others hold references to them
  for (const Modality& modality : manifest.modalities) {
    const auto found = options.align.find(modality.name);
    const Policy policy = found == options.align.end() ? Policy() : found->second;
    std::vector<TensorSpec> inputs;
    for (const TensorSpec& spec : specs) {
      if (std::find(modality.inputs.begin(), modality.inputs.end(), spec.name) !=
          modality.inputs.end()) {
        inputs.push_back(spec);
      }
    }
    check_policy(policy, modality, inputs, manifest, &rules_);
    layouts_.emplace_back(modality, policy, manifest, options, table_);
  }
  const std::vector<const Stage*> stages = stages_of(manifest, options);
  for (size_t place = 0; place < count; ++place) {
    const Modality& modality = manifest.modalities[place];
    const bool has_encoder =
        std::any_of(stages.begin(), stages.end(),
                    [&modality](const Stage* stage) { return stage->modality == modality.name; });
    const bool is_faster =
        triggers.rate && modality.rate_hz && *modality.rate_hz > *triggers.rate;
    const bool is_lazy =
        !has_encoder || is_faster || layouts_[place].policy.matches_times();
    tracks_.push_back(std::make_unique<ModalityState>(layouts_[place], table_.names.size(), place,
                                                      has_encoder, is_lazy, options));
    const auto sanity = options.sanity.find(modality.name);
    checkers_.emplace_back(sanity == options.sanity.end() ? Sanity() : sanity->second,
                           layouts_[place], manifest);
  }
  std::optional<double> deadline;
  if (options.deadline_ms) deadline = *options.deadline_ms / 1000.0;
  core_ = std::make_unique<StreamStateMachine>(tracks_, triggers.modalities, table_, &rules_,
                                               triggers.rate, deadline,
                                               static_cast<size_t>(options.keep));
  planned_.reserve(kMostAlarms + count + 4);
  sizes_.resize(table_.names.size());
  health_.modalities.resize(count);
  compute_ = std::make_unique<Compute>(runner, tracks_, table_, core_->slots.size());
  if (clock_.read != nullptr) now_ = clock_.read(clock_.context);
  if (triggers.is_timer) {
    ticker_.emplace(now_, *triggers.rate);
    plan(ticker_->next(), Event::kTick);
  }
}

void Stream::read_clock() noexcept {
  if (clock_.read != nullptr) now_ = std::max(now_, clock_.read(clock_.context));
}

Code Stream::check_open() noexcept {
  if (!core_->closed) return Code::kOk;
  return error_.set(Code::kBackend, "the stream is closed; make a new one");
}

Code Stream::push(size_t modality, const TensorView* inputs, std::optional<double> t,
                  int64_t* seq) noexcept {
  if (t && !std::isfinite(*t)) {
    return error_.set(Code::kInput, "a stamp: expected finite seconds, got %g", *t);
  }
  if (modality >= tracks_.size()) {
    return error_.set(Code::kInput, "unknown modality %zu; this bundle has %zu", modality,
                      tracks_.size());
  }
  ModalityState* track = tracks_[modality].get();
  Code code = layouts_[modality].check(inputs, table_, &rules_, sizes_.data(), &error_);
  if (code == Code::kOk) code = check_open();
  if (code != Code::kOk) return code;
  read_clock();
  const double stamp = t.value_or(now_);
  DropReason fault = track->stamp_fault(stamp, now_);
  bool is_lying = false;
  Sample* sample = nullptr;
  if (fault == DropReason::kNone) {
    sample = track->make_sample(inputs, sizes_.data());
    if (sample == nullptr) {
      fault = DropReason::kQueueFull;
    } else {
      fault = checkers_[modality].check(sample);
      is_lying = fault != DropReason::kNone;
    }
  }
  if (sample == nullptr) sample = track->make_passing(inputs, sizes_.data());
  sample->seq = track->ledger.take();
  sample->t = stamp;
  sample->arrival = now_;
  if (seq != nullptr) *seq = sample->seq;
  core_->push(track, sample, fault, is_lying, now_);
  wake();
  return Code::kOk;
}

Code Stream::forget(size_t modality) noexcept {
  if (modality >= tracks_.size()) {
    return error_.set(Code::kInput, "unknown modality %zu; this bundle has %zu", modality,
                      tracks_.size());
  }
  const Code code = check_open();
  if (code != Code::kOk) return code;
  read_clock();
  checkers_[modality].forget();
  core_->forget(tracks_[modality].get(), now_);
  wake();
  return Code::kOk;
}

Code Stream::reset() noexcept {
  const Code code = check_open();
  if (code != Code::kOk) return code;
  read_clock();
  for (Checker& checker : checkers_) checker.forget();
  core_->reset();
  wake();
  return Code::kOk;
}

void Stream::close() noexcept { core_->close(); }

Code Stream::advance_to(double time) noexcept {
  if (clock_.read != nullptr) {
    read_clock();
    time = now_;
  } else if (!std::isfinite(time) || !(time >= now_)) {
    return error_.set(Code::kInput, "time does not go backward: it is %.17g s, asked for %.17g s",
                      now_, time);
  }
  while (step(std::max(time, now_), time)) {
  }
  now_ = std::max(now_, time);
  return Code::kOk;
}

double Stream::next_time() const noexcept {
  double next = std::numeric_limits<double>::infinity();
  for (const Planned& planned : planned_) next = std::min(next, planned.time);
  return next;
}

const Result* Stream::take(bool latest) noexcept {
  read_clock();
  return core_->closed ? nullptr : core_->take(now_, latest);
}

const Health& Stream::health() noexcept {
  if (!core_->closed) read_clock();
  core_->read_health(now_, &health_);
  return health_;
}

// Work, and what it comes to later.

void Stream::plan(double time, Event event, size_t modality, Item* item) noexcept {
  planned_.push_back({time, count_++, event, modality, item});
}

void Stream::plan_alarm() noexcept {
  const std::optional<double> alarm = core_->alarm();
  if (!alarm || alarm == alarm_) return;
  alarm_ = alarm;
  size_t alarms = 0;
  auto last = planned_.end();
  for (auto each = planned_.begin(); each != planned_.end(); ++each) {
    if (each->event != Event::kAlarm) continue;
    if (each->time == *alarm) return;  // the one that rings first does the work
    ++alarms;
    if (last == planned_.end() || each->time > last->time) last = each;
  }
  if (alarms == kMostAlarms) planned_.erase(last);
  plan(*alarm, Event::kAlarm);
}

void Stream::cancel_fusion() noexcept {
  const auto found = std::find_if(planned_.begin(), planned_.end(), [](const Planned& each) {
    return each.event == Event::kFused;
  });
  if (found == planned_.end()) return;
  core_->slots.release(fused_.slot);
  planned_.erase(found);
}

void Stream::start() noexcept {
  if (core_->closed) return;
  for (const auto& track : tracks_) {
    Item* item = track->next_job(now_);
    if (item == nullptr) continue;
    double seconds = 0;
    compute_->encode(track.get(), *item, &seconds);
    read_clock();
    plan(now_ + seconds, Event::kEncoded, track->place, item);
  }
  if (const Active* active = core_->fusion()) {
    cancel_fusion();  // of a trigger that was begun anew
    double seconds = 0;
    compute_->fuse(*active, &core_->slots, &fused_, &seconds);
    fused_serial_ = core_->serial();
    read_clock();
    plan(now_ + seconds, Event::kFused);
  }
  plan_alarm();
}

void Stream::wake() noexcept {
  if (core_->closed) return;
  const double begun = now_;
  start();
  while (step(now_, begun)) {
  }
}

bool Stream::step(double limit, double tick_limit) noexcept {
  auto first = planned_.end();
  for (auto each = planned_.begin(); each != planned_.end(); ++each) {
    if (each->time > (each->event == Event::kTick ? tick_limit : limit)) continue;
    if (first == planned_.end() || each->time < first->time ||
        (each->time == first->time && each->number < first->number)) {
      first = each;
    }
  }
  if (first == planned_.end()) return false;
  const Planned planned = *first;
  planned_.erase(first);
  now_ = std::max(now_, planned.time);
  happen(planned);
  return true;
}

void Stream::happen(const Planned& planned) noexcept {
  switch (planned.event) {
    case Event::kEncoded:
      core_->encoded(tracks_[planned.modality].get(), planned.item, now_);
      start();
      break;
    case Event::kFused:
      if (core_->closed || fused_serial_ != core_->serial()) {
        core_->slots.release(fused_.slot);
      } else {
        core_->fused(fused_, now_);
      }
      start();
      break;
    case Event::kAlarm: {
      const std::optional<double> alarm = core_->alarm();
      if (!alarm || *alarm > now_) break;
      core_->wake(now_);
      start();
      break;
    }
    case Event::kTick: {
      if (core_->closed) break;
      double t = 0;
      int64_t missed = 0;
      if (ticker_->due(now_, &t, &missed)) {
        core_->tick(t, missed, now_);
        start();
      }
      plan(ticker_->next(), Event::kTick);
      break;
    }
  }
}

}  // namespace mmedge::runtime::stream
