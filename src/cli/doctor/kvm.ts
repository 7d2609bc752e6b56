/**
 * Is KVM usable? Not by looking at /dev/kvm, nor by asking for its API version: inside some VMs both work and a guest
 * never runs. So a virtual machine of one page is made and one virtual CPU runs five bytes of code in it. Node has no
 * ioctl; perl-base, which every Debian has, does.
 */
import { access, constants, readFile } from 'node:fs/promises'
import { output } from './tools.ts'
import { codeOf, type Finding, fail, note, ok, warn } from './types.ts'

/**
 * Constants from linux/kvm.h, call numbers from x86-64's asm/unistd_64.h (0 read, 1 write, 9 mmap). The code lies at the
 * reset vector: mov al,42; out 0xf4,al; hlt. Leaving the guest for that port (exit reason 2, port 0xf4) proves that it ran.
 */
const tryKvm = `
use strict; my $stage = "open of /dev/kvm";
$SIG{ALRM} = sub { print "hang\\t$stage\\n"; exit 0 }; alarm 8;
sub bad { print "fail\\t$stage\\t$!\\n"; exit 0 }
open(my $kvm, "+<", "/dev/kvm") or bad();
$stage = "KVM_GET_API_VERSION"; my $version = ioctl($kvm, 0xAE00, 0) or bad();
$stage = "KVM_CREATE_VM"; my $vmfd = ioctl($kvm, 0xAE01, 0) or bad(); open(my $vm, "+<&=", $vmfd + 0) or bad();
$stage = "KVM_SET_TSS_ADDR"; ioctl($vm, 0xAE47, 0xfffbd000) or bad();
$stage = "mmap of guest memory"; my $mem = syscall(9, 0, 4096, 3, 0x22, -1, 0); bad() if $mem == -1;
pipe(my $r, my $w) or bad(); my $code = "\\xB0\\x2A\\xE6\\xF4\\xF4"; syswrite($w, $code);
syscall(0, fileno($r), $mem + 0xFF0, length $code) == length $code or bad();
$stage = "KVM_SET_USER_MEMORY_REGION"; my $region = pack("LLQQQ", 0, 0, 0xFFFFF000, 4096, $mem);
ioctl($vm, 0x4020AE46, $region) or bad();
$stage = "KVM_CREATE_VCPU"; my $cpufd = ioctl($vm, 0xAE41, 0) or bad(); open(my $cpu, "+<&=", $cpufd + 0) or bad();
$stage = "mmap of the virtual CPU"; my $size = ioctl($kvm, 0xAE04, 0) or bad();
my $run = syscall(9, 0, $size + 0, 3, 1, $cpufd + 0, 0); bad() if $run == -1;
$stage = "KVM_RUN"; ioctl($cpu, 0xAE80, 0) or bad();
syscall(1, fileno($w), $run + 8, 4); sysread($r, my $exit, 4); $exit = unpack("L", $exit);
syscall(1, fileno($w), $run + 32, 12); sysread($r, my $io, 12); my ($dir, $width, $port) = unpack("CCS", $io);
print $exit == 2 && $port == 0xF4 ? "ran\\t$version\\n" : "odd\\t$exit\\n";
`

const consequence = 'Conversions do not need it; running VMs here would be ten times slower or fail.'

export async function checkKvm(): Promise<Finding> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK)
  } catch (error) {
    return unusable(codeOf(error))
  }
  if (process.arch !== 'x64') {
    return note('kvm', `/dev/kvm can be opened. No guest code was run: the trial exists for x86-64 only.`)
  }
  const tried = await output('perl', ['-e', tryKvm])
  if (tried === undefined) {
    return warn(
      'kvm',
      '/dev/kvm can be opened, but no guest code could be run to try it: perl is missing.',
      'Install perl-base and run doctor again.',
    )
  }
  const [result, stage = '', reason = ''] = tried.text.trim().split('\t')
  if (result === 'ran')
    return (await withoutHardware()) ?? ok('kvm', `A virtual CPU ran guest code (KVM API ${stage}).`)
  if (result === 'fail') {
    return fail(
      'kvm',
      `/dev/kvm is there, but ${stage} fails: ${reason}. ${consequence}`,
      'Look for kvm in dmesg; another hypervisor may hold the CPU, or virtualisation is off in the firmware.',
    )
  }
  return fail(
    'kvm',
    `/dev/kvm is there, but guest code did not run (${result === 'hang' ? `${stage} did not return within 8 s` : tried.text.trim() || `perl ended with ${tried.code}`}). ${consequence}`,
    'In a VM, give it nested virtualisation; on a host, look for kvm in dmesg.',
  )
}

/** Inside some virtual machines a few instructions run, emulated one by one, and a whole guest never gets anywhere. */
async function withoutHardware(): Promise<Finding | undefined> {
  const flags = /^flags\s*:(.*)$/m.exec(await readFile('/proc/cpuinfo', 'utf8'))?.[1]?.split(/\s+/) ?? []
  if (flags.includes('vmx') || flags.includes('svm')) return undefined
  return warn(
    'kvm',
    `/dev/kvm ran a few instructions, but the processor has neither vmx nor svm (/proc/cpuinfo): a guest would be started and never run. ${consequence}`,
    'Give this VM nested virtualisation. Until then VMs are emulated (vm.accelerator: auto knows).',
  )
}

function unusable(code: string): Finding {
  if (code === 'EACCES' || code === 'EPERM') {
    return warn(
      'kvm',
      `/dev/kvm may not be opened by this user (${code}). ${consequence}`,
      'Add the user to the group kvm: usermod -aG kvm USER, then log in again.',
    )
  }
  return note(
    'kvm',
    `There is no usable /dev/kvm (${code}). ${consequence}`,
    'Turn on virtualisation in the firmware (or nested virtualisation, in a VM) and load kvm_intel or kvm_amd.',
  )
}
