// The client's tests once more, against the newest libvirt that Debian offers for this release (its backports): the packages are
// unpacked into a folder, not installed, and the private daemon sees them in place of the installed ones.
import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'

const PACKAGES = [
  ...['libvirt0', 'libvirt-common', 'libvirt-daemon', 'libvirt-daemon-common', 'libvirt-daemon-driver-qemu'],
  ...['libvirt-daemon-driver-network', 'libvirt-daemon-driver-storage', 'libvirt-daemon-log'],
]

const dir = await mkdtemp(join(tmpdir(), 'newer-'))
try {
  const release = /^VERSION_CODENAME=(\w+)$/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1]
  const root = join(dir, 'apt')
  for (const d of ['lists/partial', 'cache/archives/partial']) await mkdir(join(root, d), { recursive: true })
  await writeFile(join(root, 'sources.list'), `deb http://deb.debian.org/debian ${release}-backports main\n`)
  const conf = join(root, 'apt.conf')
  await writeFile(
    conf,
    `Dir::Etc::sourcelist "${root}/sources.list";\nDir::Etc::sourceparts "-";\nDir::State::lists "${root}/lists";\nDir::Cache "${root}/cache";\nAPT::Sandbox::User "root";\n`,
  )
  const apt = (...args: string[]) => execa('apt-get', ['-qq', ...args], { cwd: dir, env: { APT_CONFIG: conf } })
  await apt('update')
  const versions = (await execa('apt-cache', ['madison', 'libvirt0'], { env: { APT_CONFIG: conf } })).stdout
  const version = /\|\s*(\S+~bpo\S+)\s*\|/.exec(versions)?.[1]
  if (version === undefined) {
    process.stdout.write(`Debian ${release} has no newer libvirt in its backports: nothing to run.\n`)
  } else {
    for (const p of PACKAGES) await apt('-t', `${release}-backports`, 'download', p)
    const tree = join(dir, 'tree')
    for (const deb of (await readdir(dir)).filter((f) => f.endsWith('.deb'))) {
      await execa('dpkg-deb', ['-x', join(dir, deb), tree])
    }
    process.stdout.write(`libvirt ${version}\n`)
    process.exitCode = await new Promise<number>((resolve) => {
      const child = spawn(
        process.execPath,
        [join(import.meta.dirname, '../../node_modules/vitest/vitest.mjs'), 'run', 'test/libvirt/'],
        {
          cwd: join(import.meta.dirname, '../..'),
          stdio: ['ignore', 'inherit', 'inherit'],
          env: {
            ...process.env,
            VMSPOOL_TEST_LIBVIRT_TREE: tree,
            VMSPOOL_TEST_LIBVIRT_VERSION: version.replace(/-.*/, ''),
          },
        },
      )
      child.on('close', (code) => resolve(code ?? 1))
    })
  }
} finally {
  await rm(dir, { recursive: true, force: true })
}
