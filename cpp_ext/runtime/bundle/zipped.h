// A bundle as one zip of stored entries: mmedge/bundle/zipped.py in C++.
#ifndef MMEDGE_RUNTIME_BUNDLE_ZIPPED_H_
#define MMEDGE_RUNTIME_BUNDLE_ZIPPED_H_

#include <map>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/identity.h"
#include "bundle/mapping.h"

namespace mmedge::runtime {

// Each byte of the file belongs to exactly one entry or to the directory at its end, so that no
// two readers understand it differently. The whole file is mapped once: replacing the bundle by
// rename, as mmedge does, leaves an open one as it was. Writing into the file in place does not.
class Zipped final : public Archive {
 public:
  // Maps the zip at `path`, which has no links in it. Throws Error(kBundle).
  explicit Zipped(const std::string& path);

  bool zipped() const override { return true; }
  Bytes read(const std::string& name) override;
  std::string digest(const std::string& name) override;
  std::string file(const std::string& name) override;
  void check_unchanged() override;

 private:
  // A line of the central directory.
  struct Entry {
    std::string name;
    uint32_t crc = 0;
    uint64_t size = 0;
    uint64_t offset = 0;
  };
  // Sizes and offset of an entry as its record states them: 32 bits, or zip64's.
  struct Numbers {
    uint64_t size = 0;
    uint64_t stored_size = 0;
    uint64_t offset = 0;
  };

  const uint8_t* record(uint64_t offset, size_t size, const char* magic) const;
  void locate();
  std::vector<Entry> directory(uint64_t* start) const;
  Entry entry(uint64_t* at) const;
  void widen(Bytes extra, const std::string& name, Numbers* numbers) const;
  uint64_t data_start(const Entry& entry) const;
  // Of a text as printf makes it.
  [[gnu::format(printf, 2, 3)]] Error fault(const char* format, ...) const;

  Identity identity_;
  Mapping mapping_;
  Bytes all_;
  std::map<std::string, Bytes> files_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_ZIPPED_H_
