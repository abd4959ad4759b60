// SPDX-License-Identifier: Apache-2.0

package symbol

import "path"

const (
	maxLineFiles  = 1 << 16 // of a unit
	maxLineFields = 16      // of a file
)

// lineFile is a file of a unit, or a folder. The name is in place: many entries may
// have the same long one.
type lineFile struct {
	name   []byte
	folder uint64
}

// file gives the path of a file of a unit as the compiler had it, empty if there is
// none. Before DWARF 5 the folder of the compilation is not told here, so a path may
// be relative.
func (t *lineTable) file(u *lineUnit, number uint64) string {
	r := reader{data: t.data[:u.code], at: u.tables}
	if u.version == 5 {
		folders, files := t.entries(&r), t.entries(&r)
		if number >= uint64(len(files)) {
			return ""
		}
		file := files[number]
		if file.folder >= uint64(len(folders)) {
			return string(file.name)
		}
		// Folder 0 is that of the compilation.
		return under(string(folders[0].name), under(string(folders[file.folder].name), string(file.name)))
	}
	folders := [][]byte{nil}
	for len(folders) < maxLineFiles {
		folder := r.text()
		if len(folder) == 0 {
			break
		}
		folders = append(folders, folder)
	}
	for n := uint64(1); n < maxLineFiles; n++ {
		name, folder := r.text(), r.uleb()
		r.uleb() // time
		r.uleb() // size
		if len(name) == 0 || r.failed {
			return ""
		}
		if n != number {
			continue
		}
		if folder >= uint64(len(folders)) {
			folder = 0
		}
		return under(string(folders[folder]), string(name))
	}
	return ""
}

// under puts a path into a folder, unless it begins at the root.
func under(folder, name string) string {
	if path.IsAbs(name) {
		return bounded(path.Clean(name))
	}
	return bounded(path.Join(folder, name))
}

// What a field of an entry tells, and how it is written: DWARF 5, 6.2.4.1 and 7.5.6.
const (
	lnctPath      = 1
	lnctDirectory = 2

	formData2    = 0x05
	formData4    = 0x06
	formData8    = 0x07
	formString   = 0x08
	formBlock    = 0x09
	formData1    = 0x0b
	formStrp     = 0x0e
	formUdata    = 0x0f
	formData16   = 0x1e
	formLineStrp = 0x1f
)

// entries reads a list of folders or files of DWARF 5: which fields an entry has,
// how many entries there are, and these. It gives what it can read.
func (t *lineTable) entries(r *reader) (list []lineFile) {
	fields := int(r.byte())
	if fields > maxLineFields {
		r.failed = true
	}
	var kinds, forms [maxLineFields]uint64
	for i := 0; i < fields && !r.failed; i++ {
		kinds[i], forms[i] = r.uleb(), r.uleb()
	}
	count := r.uleb()
	// An entry without fields has no bytes, so their number would be free.
	if fields == 0 || count > maxLineFiles {
		return nil
	}
	for range count {
		var f lineFile
		for i := range fields {
			text, number := t.field(r, forms[i])
			switch kinds[i] {
			case lnctPath:
				f.name = text
			case lnctDirectory:
				f.folder = number
			}
		}
		if r.failed {
			break
		}
		list = append(list, f)
	}
	return list
}

// field reads one field, as a text or as a number.
func (t *lineTable) field(r *reader, form uint64) (text []byte, number uint64) {
	switch form {
	case formString:
		text = r.text()
	case formStrp:
		text = bytesAt(t.texts, uint64(r.u32()))
	case formLineStrp:
		text = bytesAt(t.lineTexts, uint64(r.u32()))
	case formUdata:
		number = r.uleb()
	case formData1:
		number = uint64(r.byte())
	case formData2:
		number = uint64(r.u16())
	case formData4:
		number = uint64(r.u32())
	case formData8:
		number = r.u64()
	case formData16:
		r.take(16)
	case formBlock:
		r.take(r.uleb())
	default:
		r.failed = true
	}
	return text, number
}
