// A kernel for the appliance of libguestfs, for hosts and containers that have none of their own: Debian's cloud kernel, unpacked and not
// installed, as docs/fixing.md tells people to do it.
import { mkdir, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'

/** The path of a kernel whose modules lie in `../lib/modules/VERSION`; from `$TEST_GUEST_CACHE` when it is there already. */
export async function applianceKernel(say: (line: string) => void = () => {}): Promise<string> {
  const folder = join(process.env.TEST_GUEST_CACHE ?? tmpdir(), 'appliance-kernel')
  await mkdir(folder, { recursive: true })
  const there = async () => (await readdir(join(folder, 'boot')).catch(() => [])).find((f) => f.startsWith('vmlinuz-'))
  if (!(await there())) {
    const meta = await execa('apt-cache', ['depends', '--important', 'linux-image-cloud-amd64'])
    const name = /Depends: (linux-image-\S+-cloud-amd64)/.exec(meta.stdout)?.[1]
    if (name === undefined) throw new Error(`apt knows no cloud kernel:\n${meta.stdout}`)
    say(`apt-get download ${name}`)
    await execa('apt-get', ['download', name], { cwd: folder })
    const deb = (await readdir(folder)).find((f) => f.startsWith(name) && f.endsWith('.deb'))!
    await execa('dpkg', ['-x', join(folder, deb), folder])
    await execa('/usr/sbin/depmod', ['-b', folder, name.replace('linux-image-', '')])
  }
  await mkdir('/lib/modules', { recursive: true }) // supermin looks there whatever it is told
  return join(folder, 'boot', (await there())!)
}
