// A disk that is really full: the output lies on a small tmpfs of its own.
import { mkdir, readdir, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { bed } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest } from '../support/manifests.ts'
import { drop, endOf, readJson, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const mayMount = process.getuid?.() === 0 && (await execa('unshare', ['-m', 'true'], { reject: false })).exitCode === 0

async function tmpfs(path: string, mib: number): Promise<AsyncDisposable> {
  await mkdir(path)
  await execa('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', path])
  return {
    async [Symbol.asyncDispose]() {
      await until(
        'the tmpfs is unmounted',
        async () => (await execa('umount', [path], { reject: false })).exitCode === 0,
      )
    },
  }
}

test.skipIf(!mayMount)(
  'a job that does not fit publishes nothing, says so, and is done when there is room',
  { timeout: 600_000 },
  async () => {
    await using dir = await tempDir()
    const small = join(dir.path, 'small')
    await using _mount = await tmpfs(small, 24)
    const output = join(small, 'output')
    await using b = await bed(
      dir.path,
      {
        space: { reserve_bytes: '1M' },
        retry: { delay: '500ms', factor: 1, max_attempts: 200 },
        convert: { compress: 'no' },
      },
      { output },
    )
    const agent = await b.start()
    await writeFile(join(small, 'ballast'), Buffer.alloc(18 << 20))
    const disk = await makeDisk(dir.path, 'big', { size_mib: 16, dense: true })
    await drop(b, artifactManifest('big', [disk], { pipeline: { convert: { enabled: true, compress: false } } }))
    let last = ''
    const waiting = await until(
      'the job says that there is no room',
      async () => {
        const status = await statusOf(b, 'big')
        last = JSON.stringify(status)
        return status && /space|room|full/i.test(last) ? status : undefined
      },
      { also: () => `${last}\n${agent.output()}` },
    )
    expect(['held', 'queued', 'retrying', 'failed']).toContain(waiting.state)
    expect(await readdir(output)).not.toContain('big.qcow2')
    expect((await statfs(small)).bavail).toBeGreaterThan(0)
    await rm(join(small, 'ballast'))
    expect(await endOf(b, 'big')).toMatchObject({ state: 'succeeded' })
    expect(await holds(join(output, 'big.qcow2'), 'qcow2', disk)).toBe(true)
    expect(await readJson(join(output, 'big.result.json'))).toMatchObject({ id: waiting.id })
  },
)
