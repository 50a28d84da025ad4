// Values between two samples.
#include "stream/interpolation.h"

#include <algorithm>
#include <cmath>

#include "execution/float16.h"

namespace mmedge::runtime::stream {
namespace {

constexpr double kPi = 3.141592653589793;
// How far float32 or float16 may round pi.
constexpr double kAngleSlack = 1e-3;
// Cosine above which slerp's quotient of sines loses digits and a normalized lerp is as good.
constexpr double kNearlyEqual = 0.9995;

double read(const TensorView& view, int64_t place) noexcept {
  switch (view.dtype) {
    case DType::kFloat16:
      return half_to_float(static_cast<const uint16_t*>(view.data)[place]);
    case DType::kFloat32:
      return static_cast<const float*>(view.data)[place];
    default:
      return static_cast<const double*>(view.data)[place];
  }
}

void write(const TensorView& view, int64_t place, double value) noexcept {
  switch (view.dtype) {
    case DType::kFloat16:
      static_cast<uint16_t*>(view.data)[place] = double_to_half(value);
      break;
    case DType::kFloat32:
      static_cast<float*>(view.data)[place] = static_cast<float>(value);
      break;
    default:
      static_cast<double*>(view.data)[place] = value;
  }
}

// The same angle, from -pi to pi.
double wrap(double angle) noexcept {
  return angle - 2.0 * kPi * std::nearbyint(angle / (2.0 * kPi));
}

// Normalized; zeros, which are no rotation, are left alone.
void normalize(double* q) noexcept {
  const double norm = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  const double divisor = norm > 0.0 ? norm : 1.0;
  for (int i = 0; i < 4; ++i) q[i] /= divisor;
}

void slerp(double* a, double* b, double weight, double* mix) noexcept {
  normalize(a);
  normalize(b);
  double cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
  // q and -q are the same rotation: take the one on the near side.
  if (cosine < 0.0) {
    for (int i = 0; i < 4; ++i) b[i] = -b[i];
  }
  cosine = std::fabs(cosine) > 1.0 ? 1.0 : std::fabs(cosine);
  double first = 1.0 - weight, second = weight;
  if (!(cosine > kNearlyEqual)) {
    const double angle = std::acos(cosine), sine = std::sin(angle);
    first = std::sin((1.0 - weight) * angle) / sine;
    second = std::sin(weight * angle) / sine;
  }
  for (int i = 0; i < 4; ++i) mix[i] = first * a[i] + second * b[i];
  normalize(mix);
}

bool check_angles(const TensorView& before, const TensorView& after, const Slice& slice,
                  int64_t rows, int64_t size, Text* message) noexcept {
  double largest = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = slice.start; i < slice.stop; ++i) {
      for (const TensorView* view : {&before, &after}) {
        const double magnitude = std::fabs(read(*view, row * size + i));
        if (std::isnan(magnitude)) return true;  // it is NaN in the mix, too
        largest = std::max(largest, magnitude);
      }
    }
  }
  if (!(largest > kPi + kAngleSlack)) return true;
  message->add("InputError: elements (")
      .add_whole(slice.start)
      .add(", ")
      .add_whole(slice.stop)
      .add(") are not angles in radians from -pi to pi: ")
      .add_number(largest)
      .add(" is among them");
  return false;
}

}  // namespace

bool blend(const TensorView& before, const TensorView& after, double weight,
           const std::vector<Slice>& quaternions, const std::vector<Slice>& angles,
           const TensorView& mix, Text* message) noexcept {
  const int64_t count = before.elements();
  for (int64_t i = 0; i < count; ++i) {
    const double a = read(before, i), b = read(after, i);
    write(mix, i, a + (b - a) * weight);
  }
  if (count == 0 || before.rank == 0) return true;
  const int64_t size = before.shape[before.rank - 1], rows = count / size;
  for (const Slice& slice : quaternions) {
    for (int64_t row = 0; row < rows; ++row) {
      double a[4], b[4], q[4];
      for (int64_t i = 0; i < 4; ++i) {
        a[i] = read(before, row * size + slice.start + i);
        b[i] = read(after, row * size + slice.start + i);
      }
      slerp(a, b, weight, q);
      for (int64_t i = 0; i < 4; ++i) write(mix, row * size + slice.start + i, q[i]);
    }
  }
  for (const Slice& slice : angles) {
    if (!check_angles(before, after, slice, rows, size, message)) return false;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = row * size + slice.start; i < row * size + slice.stop; ++i) {
        const double a = read(before, i), b = read(after, i);
        write(mix, i, wrap(a + wrap(b - a) * weight));
      }
    }
  }
  return true;
}

}  // namespace mmedge::runtime::stream
