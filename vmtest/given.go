// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxKernel is more than any kernel has, so that a disk image is not read.
const maxKernel = 256 << 20

// givenKernel is the kernel of --kernel, with the modules that lie next to it.
// It is looked at with care: QEMU starts anything, and says nothing.
func givenKernel(path string) (kernel, *image, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return kernel{}, nil, fmt.Errorf("--kernel: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return kernel{}, nil, fmt.Errorf("--kernel: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKernel {
		return kernel{}, nil, fmt.Errorf("--kernel: %s: %w", path, errNoKernel)
	}
	raw, err := os.ReadFile(real)
	if err != nil {
		return kernel{}, nil, fmt.Errorf("--kernel: %w", err)
	}
	arch, release, err := inspect(raw)
	if err != nil {
		return kernel{}, nil, fmt.Errorf("--kernel: %s: %w", path, err)
	}
	if release == "" {
		release = releaseOf(real)
	}
	img := &image{path: real, release: release, modules: nearModules(real, release)}
	return kernel{name: filepath.Base(path), arch: arch, cpu: machines[arch].cpu}, img, nil
}

// What is wrong with a file that was given.
var (
	errNoKernel = errors.New("no Linux kernel image (bzImage of amd64, Image or Image.gz of arm64)")
	errCutShort = errors.New("the kernel image is cut short")
	err32Bits   = errors.New("the kernel is one for 32 bits")
)

// inspect finds the architecture of a kernel image by its boot protocol, and its
// release where the image tells it in plain. An image that lost its end is an
// error: without one word QEMU ends, or runs for ever.
func inspect(raw []byte) (arch, release string, err error) {
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return "", "", errNoKernel
		}
		plain, err := io.ReadAll(io.LimitReader(r, maxKernel))
		if !isARM64(plain) {
			return "", "", errNoKernel
		}
		if err != nil { // its end has a checksum
			return "", "", errCutShort
		}
		return "arm64", "", nil
	case len(raw) >= 0x238 && string(raw[0x202:0x206]) == "HdrS":
		return inspectX86(raw)
	case isARM64(raw):
		return "arm64", "", checkPE(raw)
	}
	return "", "", errNoKernel
}

// inspectX86 reads the setup header; see Documentation/arch/x86/boot.rst.
func inspectX86(raw []byte) (arch, release string, err error) {
	setup := int(raw[0x1f1])
	if setup == 0 {
		setup = 4
	}
	rest := binary.LittleEndian.Uint32(raw[0x1f4:])
	if len(raw) < (setup+1)*512+int(rest)*16 {
		return "", "", errCutShort
	}
	if is64 := raw[0x236]&1 != 0; !is64 {
		return "", "", err32Bits
	}
	version := int(binary.LittleEndian.Uint16(raw[0x20e:]))
	if version != 0 && version+0x200 < len(raw) {
		text, _, _ := bytes.Cut(raw[version+0x200:], []byte{0})
		text, _, _ = bytes.Cut(text, []byte(" "))
		release = string(text)
	}
	return "amd64", release, nil
}

func isARM64(raw []byte) bool { return len(raw) > 0x40 && string(raw[0x38:0x3c]) == "ARM\x64" }

// checkPE finds out whether an image that is a program for EFI too is all there.
func checkPE(raw []byte) error {
	if string(raw[:2]) != "MZ" {
		return nil // built without it: nothing tells how long it is
	}
	f, err := pe.NewFile(bytes.NewReader(raw))
	if err != nil {
		return errCutShort
	}
	for _, s := range f.Sections {
		if int64(s.Offset)+int64(s.Size) > int64(len(raw)) {
			return errCutShort
		}
	}
	return nil
}

// releaseOf takes the release from the name, or from the folder of the modules.
func releaseOf(path string) string {
	if release, ok := strings.CutPrefix(filepath.Base(path), "vmlinuz-"); ok {
		return release
	}
	if dir := filepath.Dir(path); filepath.Base(filepath.Dir(dir)) == "modules" {
		return filepath.Base(dir)
	}
	return filepath.Base(path)
}

// nearModules finds the modules that a guest needs where distributions and
// kernel builds leave them; none if there are none.
func nearModules(path, release string) []string {
	for _, at := range []string{
		"kernel/net/ipv4", // of /usr/lib/modules/RELEASE/vmlinuz
		"../lib/modules/" + release + "/kernel/net/ipv4", // of /boot/vmlinuz-RELEASE
		"../usr/lib/modules/" + release + "/kernel/net/ipv4",
		"../../../net/ipv4", // of arch/x86/boot/bzImage in a build
		".",
	} {
		dir := filepath.Join(filepath.Dir(path), at)
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		var found []string // sorted, as they are to be loaded
		for _, f := range files {
			if isWanted(f.Name()) {
				found = append(found, filepath.Join(dir, f.Name()))
			}
		}
		if found != nil {
			return found
		}
	}
	return nil
}
