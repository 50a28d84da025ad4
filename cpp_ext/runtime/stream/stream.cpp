// A multi-rate run of a bundle.
#include "stream/stream.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
  check_options(options, manifest);
  return manifest;
}

}  // namespace

Stream::Stream(const Manifest& manifest, StageRunner* runner, const StreamOptions& given,
               Clock clock, double start)
    : time_(clock, start),
      table_(check_bundle(manifest, given)),
      rules_(manifest) {
  const TriggerPlan triggers = read_trigger(given, manifest);
  const std::vector<const Stage*> stages = stages_of(manifest, given);
  const StatePlan states = read_states(stages, manifest);
  StreamOptions options = given;
  options.reset_after = read_reset_after(given, states, manifest);
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
    check_policy(policy, modality, inputs, manifest, &rules_, states.encoders[layouts_.size()]);
    layouts_.emplace_back(modality, policy, manifest, options, table_);
  }
  for (size_t place = 0; place < count; ++place) {
    const Modality& modality = manifest.modalities[place];
    const bool has_encoder =
        std::any_of(stages.begin(), stages.end(),
                    [&modality](const Stage* stage) { return stage->modality == modality.name; });
    const bool is_faster =
        triggers.rate && modality.rate_hz && *modality.rate_hz > *triggers.rate;
    const bool has_state = states.encoders[place];
    const bool is_lazy =
        !has_encoder || (!has_state && (is_faster || layouts_[place].policy.matches_times()));
    tracks_.push_back(std::make_unique<ModalityState>(layouts_[place], table_.names.size(), place,
                                                      has_encoder, has_state, is_lazy, jumps_,
                                                      options));
    const auto sanity = options.sanity.find(modality.name);
    checkers_.emplace_back(sanity == options.sanity.end() ? Sanity() : sanity->second,
                           layouts_[place], manifest);
  }
  std::optional<double> deadline;
  if (options.deadline_ms) deadline = *options.deadline_ms / 1000.0;
  std::vector<FusionStates::Stage> fusion;
  for (const std::string& name : states.fusion) {
    const auto after = options.reset_after.find(name);
    const bool is_limited = after != options.reset_after.end();
    fusion.push_back({name,
                      StateSequence(is_limited ? std::optional<double>(after->second)
                                               : std::nullopt),
                      Turn(), 0});
  }
  core_ = std::make_unique<StreamStateMachine>(tracks_, triggers.modalities, table_, &rules_,
                                               triggers.rate, deadline,
                                               static_cast<size_t>(options.keep),
                                               std::move(fusion), options.cancels, &jumps_, runner);
  planned_.reserve(kMostAlarms + count + 4);
  sizes_.resize(table_.names.size());
  health_.modalities.resize(count);
  compute_ = std::make_unique<Compute>(runner, tracks_, table_, core_->slots.size(),
                                       states.fusion.size());
  if (triggers.is_timer) {
    ticker_.emplace(time_.last, *triggers.rate);
    plan(ticker_->next(), Event::kTick);
  }
}

double Stream::read_clock() noexcept {
  if (core_->closed) return time_.last;
  Text failure;
  switch (time_.read(&failure)) {
    case ClockEvent::kTime:
      break;
    case ClockEvent::kJump:
      core_->follow_clock(time_.last, time_.jump, time_.offset);
      plan_alarm();
      if (ticker_ && time_.jump != 0.0) {
        ticker_->restart(time_.last);
        plan_tick();
      }
      break;
    case ClockEvent::kFailure:
      core_->fail(failure);
      break;
  }
  return time_.last;
}

// There is one at most: a stage that a tick started may have met a jump.
void Stream::plan_tick() noexcept {
  const auto found = std::find_if(planned_.begin(), planned_.end(), [](const Planned& each) {
    return each.event == Event::kTick;
  });
  if (found != planned_.end()) planned_.erase(found);
  plan(ticker_->next(), Event::kTick);
}

Code Stream::check_open() noexcept {
  if (!core_->failure.empty()) {
    const std::string_view why = core_->failure.view();
    return error_.set(Code::kBackend, "the stream failed: %.*s; make a new one",
                      static_cast<int>(why.size()), why.data());
  }
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
  double now = read_clock();
  if ((code = check_open()) != Code::kOk) return code;
  const double ahead = time_.ahead;
  // From here on in the stream's own time.
  double stamp = t ? *t + time_.offset : now;
  DropReason fault = track->stamp_fault(stamp, now);
  bool is_lying = false;
  Sample* sample = nullptr;
  if (fault == DropReason::kNone) {
    sample = track->take_sample();
    if (sample == nullptr) {
      fault = DropReason::kQueueFull;
    } else {
      track->fill(sample, inputs, sizes_.data());
      fault = checkers_[modality].check(sample);
      is_lying = fault != DropReason::kNone;
    }
  }
  // To copy and to check takes time.
  const double later = read_clock();
  if ((code = check_open()) != Code::kOk) return code;
  if (time_.ahead != ahead) {
    // The clock was set meanwhile: it is a sample of now, and not of before.
    stamp += time_.ahead - ahead;
    now = later;
  }
  const bool is_kept = sample != nullptr;
  if (!is_kept) sample = track->make_passing(inputs, sizes_.data());
  sample->seq = track->ledger.take();
  sample->t = stamp;
  sample->arrival = now;
  if (seq != nullptr) *seq = sample->seq;
  core_->push(track, sample, fault, is_lying, later);
  if (is_kept) --sample->pins;
  wake();
  return Code::kOk;
}

Code Stream::forget(size_t modality) noexcept {
  if (modality >= tracks_.size()) {
    return error_.set(Code::kInput, "unknown modality %zu; this bundle has %zu", modality,
                      tracks_.size());
  }
  Code code = check_open();
  if (code != Code::kOk) return code;
  const double now = read_clock();
  if ((code = check_open()) != Code::kOk) return code;
  checkers_[modality].forget();
  core_->forget(tracks_[modality].get(), now);
  wake();
  return Code::kOk;
}

Code Stream::reset() noexcept {
  const Code code = check_open();
  if (code != Code::kOk) return code;
  for (Checker& checker : checkers_) checker.forget();
  core_->reset();
  wake();
  return Code::kOk;
}

void Stream::close() noexcept { core_->close(); }

Code Stream::advance_to(double time) noexcept {
  if (!time_.is_simulated()) {
    time = read_clock();
  } else if (!std::isfinite(time) || !(time >= time_.last)) {
    return error_.set(Code::kInput, "time does not go backward: it is %.17g s, asked for %.17g s",
                      time_.last, time);
  }
  while (step(std::max(time, time_.last), time)) {
  }
  time_.advance(time);
  return core_->failure.empty() ? Code::kOk : check_open();
}

double Stream::next_time() const noexcept {
  double next = std::numeric_limits<double>::infinity();
  for (const Planned& planned : planned_) next = std::min(next, planned.time);
  return next - time_.offset;
}

const Result* Stream::take(bool latest) noexcept {
  const double now = read_clock();
  return core_->closed ? nullptr : core_->take(now, latest);
}

const Health& Stream::health() noexcept {
  core_->read_health(read_clock(), &health_);
  health_.clock_jumps = time_.jumps;
  health_.clock_glitches = time_.glitches;
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
    return each.event == Event::kFused || each.event == Event::kStepped;
  });
  if (found == planned_.end()) return;
  core_->slots.release(fused_.slot);
  planned_.erase(found);
}

void Stream::start() noexcept {
  if (core_->closed) return;
  for (const auto& track : tracks_) {
    Item* item = track->next_job(time_.last);
    if (item == nullptr) continue;
    double seconds = 0;
    compute_->encode(track.get(), *item, &seconds);
    plan(read_clock() + seconds, Event::kEncoded, track->place, item);
  }
  if (const Active* active = core_->fusion()) {
    cancel_fusion();  // of a trigger that was begun anew
    double seconds = 0;
    compute_->begin_fusion(*active, core_->states());
    compute_->fuse(&core_->slots, &fused_, &seconds);
    compute_->end_fusion();
    fused_serial_ = core_->serial();
    plan(read_clock() + seconds, Event::kFused);
  }
  plan_alarm();
}

void Stream::wake() noexcept {
  if (core_->closed) return;
  const double begun = time_.last;
  start();
  while (step(time_.last, begun)) {
  }
}

bool Stream::is_patient(const Planned& planned) const noexcept {
  return planned.event == Event::kTick || planned.event == Event::kStepped ||
         (planned.event == Event::kFused && fused_.has_loop);
}

bool Stream::step(double limit, double patient_limit) noexcept {
  auto first = planned_.end();
  for (auto each = planned_.begin(); each != planned_.end(); ++each) {
    if (each->time > (is_patient(*each) ? patient_limit : limit)) continue;
    if (first == planned_.end() || each->time < first->time ||
        (each->time == first->time && each->number < first->number)) {
      first = each;
    }
  }
  if (first == planned_.end()) return false;
  const Planned planned = *first;
  planned_.erase(first);
  time_.advance(planned.time);
  happen(planned);
  return true;
}

// Between two steps it is seen whether anything ends the loop.
void Stream::take_step() noexcept {
  const LoopEnd why = core_->loop_end(time_.last);
  if (why != LoopEnd::kNone) {
    end_loop(why);
    return;
  }
  double seconds = 0;
  compute_->step(&core_->slots, &fused_, &seconds);
  plan(read_clock() + seconds, Event::kStepped);
}

void Stream::end_loop(LoopEnd why) noexcept {
  double seconds = 0;
  compute_->end(why, &core_->slots, &fused_, &seconds);
  plan(read_clock() + seconds, Event::kFused);
}

void Stream::happen(const Planned& planned) noexcept {
  switch (planned.event) {
    case Event::kEncoded:
      core_->encoded(tracks_[planned.modality].get(), planned.item, time_.last);
      start();
      break;
    case Event::kFused:
    case Event::kStepped:
      if (core_->closed || fused_serial_ != core_->serial()) {
        core_->slots.release(fused_.slot);
        fused_.has_loop = false;
      } else if (planned.event == Event::kStepped) {
        core_->stepped(time_.last);
        if (!fused_.has_more) {
          end_loop(LoopEnd::kNone);
        } else {
          take_step();
        }
        break;
      } else if (fused_.has_loop) {
        take_step();
        break;
      } else {
        core_->fused(fused_, time_.last);
      }
      start();
      break;
    case Event::kAlarm: {
      const std::optional<double> alarm = core_->alarm();
      if (!alarm || *alarm > time_.last) break;
      core_->wake(time_.last);
      start();
      break;
    }
    case Event::kTick: {
      if (core_->closed) break;
      double t = 0;
      int64_t missed = 0;
      if (ticker_->due(time_.last, &t, &missed)) {
        core_->tick(t, missed, time_.last);
        start();
      }
      plan_tick();
      break;
    }
  }
}

}  // namespace mmedge::runtime::stream
