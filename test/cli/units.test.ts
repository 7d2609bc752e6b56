import { describe, expect, test } from 'vitest'
import { diskManifest, isDiskFile } from '../../src/client/manifest-files.ts'
import { fromHyperctl } from '../../src/cli/hyperctl.ts'
import { parseUnits } from '../../src/client/units.ts'
import { exportedAsync, namesakes } from '../../src/cli/doctor/shared.ts'
import { judgeMount, mountOf, parseMounts } from '../../src/cli/doctor/mounts.ts'
import { plain, table } from '../../src/cli/output.ts'
import { age, bytes, duration, parseDuration } from '../../src/cli/units.ts'

test('sizes and durations as people read them', () => {
  expect([0, 1023, 1024, 1536, 1024 ** 2 * 10.4, 1024 ** 3 - 1, 2.5e12].map(bytes)).toEqual([
    '0 B',
    '1023 B',
    '1.0 KiB',
    '1.5 KiB',
    '10 MiB',
    '1.0 GiB',
    '2.3 TiB',
  ])
  expect([0, 999, 1000, 59_499, 60_000, 185_000, 3_600_000, 7_800_000, 90_000_000].map(duration)).toEqual([
    '0 ms',
    '999 ms',
    '1 s',
    '59 s',
    '1 min',
    '3 min 5 s',
    '1 h',
    '2 h 10 min',
    '1 d 1 h',
  ])
  expect(['90', '90s', '5m', '2h', '1d', '500ms'].map(parseDuration)).toEqual([
    90_000, 90_000, 300_000, 7_200_000, 86_400_000, 500,
  ])
  expect(() => parseDuration('soon')).toThrow('"soon" is no duration')
  expect(age('2026-01-01T00:00:00Z', Date.parse('2026-01-01T00:01:40Z'))).toBe('1 min 40 s')
  expect(age(undefined)).toBe('-')
})

test('tables align by what is seen, not by bytes, and let no control character through', () => {
  const text = table(
    [
      { name: '仮想マシン', n: 7 },
      { name: 'web\u001b[2J', n: 12 },
    ],
    [
      { title: 'NAME', value: (r) => r.name },
      { title: 'N', value: (r) => String(r.n), right: true },
    ],
    false,
  )
  expect(text).toBe('NAME         N\n仮想マシン   7\nweb\ufffd[2J     12')
  expect(plain('a\nb\u202ec')).toBe('a\ufffdb\ufffdc')
})

test('what a disk is called and what it is, by its name', async () => {
  const told = async (path: string) => {
    const { name, manifest } = await diskManifest(path)
    return [name, (manifest as { disks: { source_format: string }[] }).disks[0]!.source_format]
  }
  expect(await told('/none/a.b.VMDK')).toEqual(['a.b', 'vmdk'])
  expect(await told('/none/web.ova.gz')).toEqual(['web', 'ova'])
  expect(await told('/none/web.img.GZ')).toEqual(['web', 'raw'])
  expect(['a.gz', 'a.ovf.gz', 'a.tar.gz', 'gz', '.vmdk.gz.bak'].map(isDiskFile)).toEqual(Array(5).fill(false))
  await expect(diskManifest('/none/a.tar.gz')).rejects.toThrow('can be told by its name')
})

test('what systemd says of units', () => {
  const text = `Id=agent@a.service\nLoadState=loaded\nActiveState=active\nMainPID=12\nActiveEnterTimestampMonotonic=5000000

Id=agent.service\nLoadState=loaded\nActiveState=failed\nMainPID=0\nActiveEnterTimestampMonotonic=4000000

Id=agent@gone.service\nLoadState=not-found\nActiveState=inactive\nMainPID=0\nActiveEnterTimestampMonotonic=0`
  expect([...parseUnits(text, 65_000_000).values()]).toEqual([
    { unit: 'agent@a.service', instance: 'a', state: 'active', main_pid: 12, uptime_ms: 60_000 },
    { unit: 'agent.service', instance: 'default', state: 'failed' },
  ])
})

test("hyperctl's options mean the same here", () => {
  expect(fromHyperctl(['daemon', '-op', 'status', '-instance', 'vsphere', '-json'])).toEqual([
    'daemon',
    'status',
    '--instance',
    'vsphere',
    '--output',
    'json',
  ])
  expect(fromHyperctl(['daemon', '-op=list'])).toEqual(['daemon', 'list'])
  expect(fromHyperctl(['daemon', 'drain', '--instance', 'x', '-o', 'json'])).toEqual([
    'daemon',
    'drain',
    '--instance',
    'x',
    '-o',
    'json',
  ])
  expect(fromHyperctl(['list', '-op', 'x'])).toEqual(['list', '-op', 'x'])
})

describe('mounts', () => {
  const mounts = parseMounts(`22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:40 / /srv/spool\\040one rw,noatime shared:5 - nfs4 server:/spool rw,vers=4.2,rsize=1048576,hard,proto=tcp
31 22 0:41 / /srv/soft rw - nfs4 server:/soft rw,vers=4.1,soft
32 22 0:42 / /srv/old rw - nfs server:/old rw,vers=3,hard
35 22 0:45 / /srv/loose rw - nfs server:/loose rw,vers=3,nolock,local_lock=all,hard
33 22 0:43 / /run rw,nosuid - tmpfs tmpfs rw
34 22 0:44 / /ro ro,relatime - ext4 /dev/sdb1 ro
`)
  const judge = (path: string) => judgeMount('mount', path, mountOf(mounts, path))

  test('the longest mount point counts, and names may hold spaces', () => {
    expect(mountOf(mounts, '/srv/spool one/queue')?.source).toBe('server:/spool')
    expect(mountOf(mounts, '/srv/spool onehalf')?.point).toBe('/')
  })

  test.each([
    ['/var/lib/vmspool', 'ok', /on ext4/],
    ['/srv/spool one', 'note', /vers=4\.2,hard/],
    ['/srv/soft/x', 'fail', /soft mount gives up/],
    ['/srv/old/x', 'warn', /NFS 3 replays/],
    ['/srv/loose', 'warn', /locks are known to this host alone/],
    ['/run/x', 'warn', /lies in memory/],
    ['/ro/x', 'fail', /read-only/],
  ])('%s: %s', (path, state, detail) => {
    expect(judge(path)).toMatchObject({ state, detail: expect.stringMatching(detail) })
  })
})

describe('a shared spool', () => {
  test('two hosts of one name are told of, a worker beside its main agent is not', () => {
    const lease = (host: string, boot_id: string) => ({ host, boot_id }) as Parameters<typeof namesakes>[0][number]
    expect(namesakes([lease('a', '1'), lease('a', '1'), lease('b', '2')])).toEqual([])
    expect(namesakes([lease('a', '1'), lease('a', '2'), lease('b', '2')])).toMatchObject([
      { state: 'warn', detail: expect.stringContaining('2 different boots call their host "a"') },
    ])
  })

  test('an export with async is told of on the server, for the folder it is about', () => {
    const etab =
      '/srv/nfs\t10.0.0.0/8(rw,async,wdelay,hide)\n/srv/good\t*(rw,sync,wdelay)\n/srv/also\ta(rw,sync) b(async,rw)\n'
    expect(exportedAsync(etab, '/srv/nfs/spools')).toMatchObject({ state: 'fail' })
    expect(exportedAsync(etab, '/srv/also')).toMatchObject({ state: 'fail' })
    expect(exportedAsync(etab, '/srv/good/x')).toBeUndefined()
    expect(exportedAsync(etab, '/srv/nfs2')).toBeUndefined()
    expect(exportedAsync('', '/srv/nfs')).toBeUndefined()
  })
})
