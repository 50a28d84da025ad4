// Which elements of a reference are fill values, such as the -1e9 of a mask.
//
// docs/reference/bundle.md ("Differences", "A fill value's scale") specifies them.
#ifndef MMEDGE_RUNTIME_EXECUTION_FILL_VALUES_H_
#define MMEDGE_RUNTIME_EXECUTION_FILL_VALUES_H_

#include <cstdint>
#include <vector>

namespace mmedge::runtime {

// Marks the fill values among magnitudes. `is_equal` says where both tensors have the same element.
// Returns false, and leaves `is_fill` as it may be, where there is none.
bool find_fill_values(const std::vector<double>& sizes, const std::vector<uint8_t>& is_equal,
                      std::vector<uint8_t>* is_fill);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_FILL_VALUES_H_
