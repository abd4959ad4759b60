// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeX86 is a bzImage with a setup of two sectors and room for its release, and
// 32 bytes of kernel.
func fakeX86(flags byte) []byte {
	raw := make([]byte, 3*512+32)
	raw[0x1f1] = 2
	raw[0x1f4] = 2 // times 16 bytes
	copy(raw[0x202:], "HdrS")
	raw[0x236] = flags
	binary.LittleEndian.PutUint16(raw[0x20e:], 0x100)
	copy(raw[0x300:], "6.1.0-test (who) #1\x00")
	return raw
}

// fakeARM64 is an Image that is no program for EFI.
func fakeARM64() []byte {
	raw := make([]byte, 512)
	copy(raw[0x38:], "ARM\x64")
	return raw
}

func zipped(raw []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(raw)
	w.Close()
	return out.Bytes()
}

func TestInspect(t *testing.T) {
	x86, arm, gz := fakeX86(1), fakeARM64(), zipped(fakeARM64())
	efi := fakeARM64()
	copy(efi, "MZ") // and nothing else of it
	for name, c := range map[string]struct {
		raw           []byte
		arch, release string
		err           error
	}{
		"x86":              {x86, "amd64", "6.1.0-test", nil},
		"arm64":            {arm, "arm64", "", nil},
		"arm64, zipped":    {gz, "arm64", "", nil},
		"nothing":          {nil, "", "", errNoKernel},
		"text":             {[]byte(strings.Repeat("no kernel ", 100)), "", "", errNoKernel},
		"zipped text":      {zipped([]byte("no kernel")), "", "", errNoKernel},
		"zip's head":       {gz[:5], "", "", errNoKernel},
		"x86 cut short":    {x86[:len(x86)-1], "", "", errCutShort},
		"x86, 32 bits":     {fakeX86(0), "", "", err32Bits},
		"zipped cut short": {gz[:len(gz)-1], "", "", errCutShort},
		"EFI cut short":    {efi, "arm64", "", errCutShort},
	} {
		arch, release, err := inspect(c.raw)
		if arch != c.arch || release != c.release || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %q, %v", name, arch, release, err)
		}
	}
}

// A kernel takes its modules from where they are found beside it.
func TestGivenKernel(t *testing.T) {
	for path, modules := range map[string]string{
		"lib/modules/6.1.0-test/vmlinuz": "lib/modules/6.1.0-test/kernel/net/ipv4",
		"boot/vmlinuz-6.1.0-test":        "usr/lib/modules/6.1.0-test/kernel/net/ipv4",
		"src/arch/x86/boot/bzImage":      "src/net/ipv4",
		"beside/kernel":                  "beside",
		"alone/kernel":                   "",
	} {
		root := t.TempDir()
		at := func(path string) string { return filepath.Join(root, path) }
		put := func(path string, content []byte) {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		put(at(path), fakeX86(1))
		var want []string
		if modules != "" {
			want = []string{at(modules + "/inet_diag.ko.xz"), at(modules + "/tcp_diag.ko.xz")}
			for _, m := range append(want, at(modules+"/udp_diag.ko.xz")) {
				put(m, nil)
			}
		}
		link := at("link")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		for _, given := range []string{at(path), link} {
			k, img, err := givenKernel(given)
			if err != nil || k.arch != "amd64" || img.release != "6.1.0-test" || !slices.Equal(img.modules, want) {
				t.Errorf("%s: %+v, %+v, %v", given, k, img, err)
			}
		}
	}
	dir := t.TempDir()
	if _, _, err := givenKernel(dir); !errors.Is(err, errNoKernel) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder: %v", err)
	}
	if _, _, err := givenKernel(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestReleaseOf(t *testing.T) {
	for path, want := range map[string]string{
		"/boot/vmlinuz-6.1.0": "6.1.0", "/usr/lib/modules/6.12.0/vmlinuz": "6.12.0", "/home/me/Image": "Image",
	} {
		if got := releaseOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
