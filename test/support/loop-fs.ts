import { mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'

export interface LoopFs extends AsyncDisposable {
  type: string
  path: string
}

/** A file system of `gib` GiB in a sparse file in `dir`, mounted on a loop device until it is disposed of. @throws where that is not allowed */
export async function loopFs(dir: string, type: 'btrfs' | 'xfs', gib: number): Promise<LoopFs> {
  const file = join(dir, `${type}.img`)
  const path = join(dir, type)
  {
    await using f = await open(file, 'w')
    await f.truncate(gib * 2 ** 30)
  }
  await execa(`mkfs.${type}`, ['-q', file])
  await mkdir(path)
  await execa('mount', ['-o', 'loop', file, path])
  return {
    type,
    path,
    [Symbol.asyncDispose]: async () => {
      // a loop device that was attached by mount is detached with it
      await execa('umount', [path])
      await rm(file)
      await rm(path, { recursive: true })
    },
  }
}
