import { execFileSync } from 'node:child_process'
import { mkdir, readdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { fsck, publishCommitted, type Spool, takeAndAccept } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'
import { command, end, intake, mustClaim, openTestSpool, settle } from './harness.ts'

async function noProblems(s: Spool): Promise<void> {
  expect((await fsck(s)).problems.filter((p) => p.severity === 'error')).toEqual([])
}

async function errorOf(s: Spool, answer: string): Promise<string> {
  return readFile(join(s.layout.output, `${answer}.error`), 'utf8')
}

test('a drop becomes a job, and the next of its name another', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const o = intake()
  await writeFile(join(s.layout.queue, 'm.json'), command('one'))
  const first = await settle(s, o)
  await writeFile(join(s.layout.queue, 'm.json'), command('two'))
  const second = await settle(s, o)
  expect([...first, ...second].map((a) => [a.record.answer, a.state])).toEqual([
    ['one', 'new'],
    ['two', 'new'],
  ])
  expect(first[0]!.record.drop).toMatchObject({ file: 'm.json', uid: process.getuid!() })
  expect(await readdir(s.layout.queue)).toEqual([])
  await noProblems(s)
})

test('a writer that goes on after its drop was accepted has dropped twice', async () => {
  await using dir = await tempDir()
  let passed = 0
  const s = await openTestSpool(dir.path, { leaseMs: 1e9, mono: () => performance.now() + passed })
  const path = join(s.layout.queue, 'm.json')
  const { open } = await import('node:fs/promises')
  await using file = await open(path, 'w')
  await file.writeFile(command('early'))
  const slow = intake({ raw_keep_ms: 1e6 })
  const [first] = (await takeAndAccept(s, slow)).accepted
  expect(first!.record.answer).toBe('early')
  await file.truncate(0)
  await file.write(command('later'), 0)
  // it is looked at a last time when it is no longer kept
  expect((await takeAndAccept(s, slow)).accepted).toEqual([])
  passed = 1e6
  expect((await settle(s, slow)).map((a) => a.record.answer)).toEqual(['later'])
})

test('a drop that is not whole waits, and is rejected when its writer stays away', async () => {
  await using dir = await tempDir()
  const s = await openTestSpool(dir.path)
  const text = command('halves')
  await writeFile(join(s.layout.queue, 'm.json'), text.slice(0, 20))
  const patient = intake({ incomplete_after_ms: 60_000 })
  const round = await takeAndAccept(s, patient)
  expect(round).toMatchObject({ accepted: [], pending: 1 })
  const { folder, file } = [...s.intake.raw.values()][0]!
  await writeFile(join(folder, file), text)
  expect((await takeAndAccept(s, patient)).accepted.map((a) => a.record.answer)).toEqual(['halves'])

  await writeFile(join(s.layout.queue, 'n.json'), text.slice(0, 20))
  const rejected = await settle(s, intake({ incomplete_after_ms: 0 }))
  expect(rejected.map((a) => [a.record.answer, a.state])).toEqual([
    ['vm', 'claimed'],
    ['n', 'claimed'],
  ])
  await publishCommitted(s)
  for (const answer of ['vm', 'n']) expect(await errorOf(s, answer)).toContain('n.json')
  const kept = (await readdir(s.layout.rejected)).filter((f) => f.endsWith('--n.json'))
  expect(kept).toHaveLength(1)
  expect(await readFile(join(s.layout.rejected, kept[0]!), 'utf8')).toBe(text.slice(0, 20))
  await noProblems(s)
})

describe('rubbish is answered and kept, and the next drop is served', () => {
  const cases: [string, string, (path: string) => Promise<unknown>, RegExp][] = [
    ['invalid UTF-8', 'a.json', (p) => writeFile(p, Buffer.from([0x7b, 0xff, 0xfe, 0x7d])), /UTF-8/],
    ['no JSON', 'a.json', (p) => writeFile(p, 'hello'), /rejected/],
    ['duplicate keys', 'a.json', (p) => writeFile(p, '{"kind":"command","kind":"convert"}'), /kind/],
    ['__proto__', 'a.json', (p) => writeFile(p, '{"__proto__":{"x":1},"kind":"command","name":"a"}'), /__proto__/],
    [
      '2 GiB',
      'a.json',
      async (p) => {
        await writeFile(p, '{')
        await truncate(p, 2 ** 31)
      },
      /2147483648/,
    ],
    ['a path for a name', 'a.json', (p) => writeFile(p, command('../../etc/x')), /name/],
    ['a kind of tomorrow', 'a.json', (p) => writeFile(p, '{"kind":"teleport","name":"a"}'), /teleport|kind/],
  ]
  test.each(cases)('%s', async (_what, file, make, says) => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await make(join(s.layout.queue, file))
    await writeFile(join(s.layout.queue, 'good.json'), command('good'))
    const accepted = await settle(s, intake())
    await publishCommitted(s)
    expect(accepted.filter((a) => a.state === 'new').map((a) => a.record.answer)).toEqual(['good'])
    expect(await errorOf(s, 'a')).toMatch(says)
    expect((await readdir(s.layout.rejected)).some((f) => f.endsWith(`--${file}`))).toBe(true)
    await noProblems(s)
  })

  const odd: [string, string, (path: string) => Promise<unknown>, RegExp][] = [
    ['a symbolic link', 'l.json', (p) => symlink('/etc/passwd', p), /symbolic link/],
    ['a folder', 'd.json', (p) => mkdir(p), /folder/],
    ['a FIFO', 'f.json', async (p) => execFileSync('mkfifo', [p]), /FIFO/],
  ]
  test.each(odd)('%s is answered once and left where it is', async (_what, file, make, says) => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await make(join(s.layout.queue, file))
    expect((await settle(s, intake())).map((a) => a.record.answer)).toEqual(['vm', file[0]])
    await publishCommitted(s)
    expect(await errorOf(s, file[0]!)).toMatch(says)
    expect(await readdir(s.layout.queue)).toEqual([file])
    expect(await settle(s, intake())).toEqual([])
    const another = await openTestSpool(dir.path)
    expect(await settle(another, intake())).toEqual([])
    await noProblems(s)
  })
})

describe('bare disks', () => {
  async function image(path: string, format = 'qcow2'): Promise<void> {
    execFileSync('qemu-img', ['create', '-q', '-f', format, path, '1M'])
  }

  test('a disk alone becomes a job; afterwards it lies in .processed', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await image(join(s.layout.queue, 'web.qcow2'))
    const [job] = await settle(s, intake())
    expect(job!.record).toMatchObject({ answer: 'web', kind: 'convert', payload: ['web.qcow2'], drop: { bare: true } })
    expect(job!.record.manifest).toMatchObject({ disks: [{ source_format: 'qcow2' }] })
    expect(await readdir(s.layout.queue)).toEqual([])
    await noProblems(s)
    await end(s, await mustClaim(s, job!), 'done')
    const day = job!.record.drop.at.slice(0, 10)
    expect(await readdir(join(s.layout.queue, '.processed', day))).toEqual(['web.qcow2'])
    expect(await readdir(s.layout.payload)).toEqual([])
    await noProblems(s)
  })

  test('after a failure it lies in .errors with the reason beside it', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await image(join(s.layout.queue, 'db.vmdk'), 'vmdk')
    const [job] = await settle(s, intake())
    await end(s, await mustClaim(s, job!), 'failed')
    expect((await readdir(join(s.layout.queue, '.errors'))).sort()).toEqual(['db.vmdk', 'db.vmdk.error.json'])
    const why = JSON.parse(await readFile(join(s.layout.queue, '.errors', 'db.vmdk.error.json'), 'utf8'))
    expect(why).toMatchObject({ filename: 'db.vmdk', error: `no luck with ${job!.name.id}` })
  })

  test('a disk that a manifest names is that job, before and after the manifest was taken', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    const disk = join(s.layout.queue, 'disk.qcow2')
    await image(disk)
    const manifest = {
      manifest_version: '1.0',
      source: { vm_name: 'export' },
      disks: [{ id: 'd0', source_format: 'qcow2', bytes: 1, local_path: disk }],
    }
    await writeFile(join(s.layout.queue, 'artifact-manifest.json'), JSON.stringify(manifest))
    expect((await settle(s, intake())).map((a) => a.record.answer)).toEqual(['export'])
    expect(await settle(s, intake())).toEqual([])
    expect(await readdir(s.layout.queue)).toEqual(['disk.qcow2'])
    await image(disk) // another disk of that name is another drop
    expect((await settle(s, intake())).map((a) => a.record.answer)).toEqual(['disk'])
  })

  test('an OVF waits for its disks and takes them along', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    const ovf = `<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:href="x-disk1.vmdk" ovf:id="f1"/></References>
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1048576"/></DiskSection></Envelope>`
    await writeFile(join(s.layout.queue, 'x.ovf'), ovf)
    expect(await settle(s, intake())).toEqual([])
    await image(join(s.layout.queue, 'x-disk1.vmdk'), 'vmdk')
    const jobs = await settle(s, intake())
    expect(jobs.map((a) => [a.record.answer, a.record.payload?.sort()])).toEqual([['x', ['x-disk1.vmdk', 'x.ovf']]])
  })

  test('packed with gzip: alone, and as an OVF names it', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await writeFile(join(s.layout.queue, 'web.vmdk.gz'), Buffer.from([0x1f, 0x8b, 8, 0]))
    await writeFile(join(s.layout.queue, 'notes.gz'), 'no disk')
    const [alone] = await settle(s, intake())
    expect(alone!.record).toMatchObject({ answer: 'web', payload: ['web.vmdk.gz'] })
    expect(alone!.record.manifest).toMatchObject({ disks: [{ source_format: 'vmdk' }] })
    const ovf = `<Envelope><References><File href="y.vmdk.gz" id="f1" compression="gzip"/></References>
<DiskSection><Disk diskId="d1" fileRef="f1"/></DiskSection></Envelope>`
    await writeFile(join(s.layout.queue, 'y.ovf'), ovf)
    expect(await settle(s, intake())).toEqual([])
    await writeFile(join(s.layout.queue, 'y.vmdk.gz'), Buffer.from([0x1f, 0x8b, 8, 0]))
    const jobs = await settle(s, intake())
    expect(jobs.map((a) => [a.record.answer, a.record.payload?.sort()])).toEqual([['y', ['y.ovf', 'y.vmdk.gz']]])
  })

  test('half a disk is left until it ends as its format ends', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    const whole = join(dir.path, 'whole.vhd')
    await image(whole, 'vpc')
    const bytes = await readFile(whole)
    const path = join(s.layout.queue, 'half.vhd')
    await writeFile(path, bytes.subarray(0, bytes.length - 512))
    expect(await settle(s, intake())).toEqual([])
    await writeFile(path, bytes)
    expect((await settle(s, intake())).map((a) => a.record.answer)).toEqual(['half'])
  })

  test('bare_disks: off leaves them alone', async () => {
    await using dir = await tempDir()
    const s = await openTestSpool(dir.path)
    await image(join(s.layout.queue, 'a.qcow2'))
    expect(await settle(s, intake({ bare_disks: false }))).toEqual([])
    expect(await readdir(s.layout.queue)).toEqual(['a.qcow2'])
  })
})
