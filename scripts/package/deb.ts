/** The Debian package of an installation tree: dpkg-deb(1), Debian Policy. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

export interface DebOptions {
  /** the checkout, for packaging/deb */
  root: string
  tree: string
  /** a folder that is made and removed */
  work: string
  out: string
  version: string
  compress: 'xz' | 'gzip' | 'none'
}

/** What of the tree lies elsewhere in a Debian system. */
const elsewhere: readonly [string, string][] = [
  ['docs', 'usr/share/doc/vmspool/docs'],
  ['README.md', 'usr/share/doc/vmspool/README.md'],
  ['CHANGELOG.md', 'usr/share/doc/vmspool/CHANGELOG.md'],
  ['LICENSE', 'usr/share/doc/vmspool/copyright'],
  ['share/man', 'usr/share/man/man1'],
  ['share/completions/vmspool.bash', 'usr/share/bash-completion/completions/vmspool'],
  ['share/completions/_vmspool', 'usr/share/zsh/vendor-completions/_vmspool'],
  ['share/completions/vmspool.fish', 'usr/share/fish/vendor_completions.d/vmspool.fish'],
]
const copies: readonly [string, string][] = [
  ['systemd/agent.service', 'usr/lib/systemd/system/agent.service'],
  ['systemd/agent@.service', 'usr/lib/systemd/system/agent@.service'],
  ['systemd/agent.target', 'usr/lib/systemd/system/agent.target'],
  ['systemd/vmspool.sysusers', 'usr/lib/sysusers.d/vmspool.conf'],
  ['systemd/vmspool.tmpfiles', 'usr/lib/tmpfiles.d/vmspool.conf'],
  ['conf/agent.yaml', 'etc/vmspool/agent.yaml'],
]
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' }

/** @returns the path of the package */
export function makeDeb(o: DebOptions): string {
  const architecture = architectures[process.arch]
  if (architecture === undefined) throw new Error(`There is no Node for ${process.arch} to put into a package.`)
  const pkg = join(o.work, 'deb')
  const home = join(pkg, 'usr/lib/vmspool')
  mkdirSync(dirname(home), { recursive: true })
  cpSync(o.tree, home, { recursive: true, dereference: false, verbatimSymlinks: true })
  const place = (to: string): string => {
    mkdirSync(dirname(join(pkg, to)), { recursive: true })
    return join(pkg, to)
  }
  for (const [from, to] of elsewhere) renameSync(join(home, from), place(to))
  rmSync(join(home, 'share'), { recursive: true })
  for (const [from, to] of copies) cpSync(join(home, from), place(to))
  symlinkSync('../lib/vmspool/bin/vmspool', place('usr/bin/vmspool'))
  // Instances, the hyper2kvm names: what apt cannot ask for.
  symlinkSync('../lib/vmspool/install.sh', place('usr/sbin/vmspool-install'))
  writeFileSync(join(home, '.packaged'), 'deb\n')

  const control = join(pkg, 'DEBIAN')
  mkdirSync(control)
  const kib = files(pkg).reduce((sum, f) => sum + Math.ceil(lstatSync(join(pkg, f)).size / 1024), 0)
  writeFileSync(join(control, 'control'), controlFile(o.version, architecture, kib))
  writeFileSync(join(control, 'conffiles'), '/etc/vmspool/agent.yaml\n')
  const sums = files(pkg)
    .filter((f) => !f.startsWith('DEBIAN/') && !f.startsWith('etc/') && lstatSync(join(pkg, f)).isFile())
    .map(
      (f) =>
        `${createHash('md5')
          .update(readFileSync(join(pkg, f)))
          .digest('hex')}  ${f}`,
    )
  writeFileSync(join(control, 'md5sums'), `${sums.join('\n')}\n`)
  for (const script of ['postinst', 'prerm', 'postrm']) {
    const text = readFileSync(join(o.root, 'packaging/deb', script), 'utf8')
    // What is removed with the package cannot be called by its last script.
    const shared = (_: string, path: string): string => readFileSync(join(o.root, path), 'utf8').replace(/^#!.*\n/, '')
    writeFileSync(join(control, script), text.replace(/^# include (\S+)$/gm, shared))
    chmodSync(join(control, script), 0o755)
  }
  ownModes(pkg)
  const deb = join(o.out, `vmspool_${o.version}_${architecture}.deb`)
  const level = o.compress === 'gzip' ? ['-z1'] : []
  execFileSync('dpkg-deb', ['--root-owner-group', `-Z${o.compress}`, ...level, '--build', pkg, deb], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return deb
}

function controlFile(version: string, architecture: string, kib: number): string {
  return `Package: vmspool
Version: ${version}
Architecture: ${architecture}
Maintainer: vmspool maintainers <maintainers@vmspool.invalid>
Installed-Size: ${kib}
Section: admin
Priority: optional
Depends: libc6 (>= 2.28), libstdc++6, libatomic1, perl-base, util-linux, qemu-utils, systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Recommends: acl, xorriso
Suggests: libvirt-daemon-system, dnsmasq-base, virt-v2v, nbdkit
Description: filesystem watch-queue for converting and running virtual machines
 A client drops a manifest into a folder; an agent converts the disks it
 names, or runs its program; the client finds verified disks and truthful
 status files. Takes the place of the daemon that hyperexport submits to.
 .
 Brings its own Node. Instances are made with vmspool-install --instance NAME.
`
}

function files(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => !e.isDirectory())
    .map((e) => join(e.parentPath, e.name).slice(dir.length + 1))
    .sort()
}

/** Modes must not depend on the umask of whoever builds. */
function ownModes(dir: string): void {
  for (const e of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const path = join(e.parentPath, e.name)
    if (e.isSymbolicLink()) continue
    const executable = e.isDirectory() || (lstatSync(path).mode & 0o100) !== 0
    chmodSync(path, executable ? 0o755 : 0o644)
  }
  chmodSync(dir, 0o755)
}
