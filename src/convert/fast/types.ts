import type { GrainMap, ImageWindow } from '../../images/index.ts'
import type { ProcessIdentity } from '../../process/index.ts'

/** One streamOptimized VMDK on its way past qemu-img. Sizes are bytes. */
export interface FastCopy {
  window: ImageWindow
  map: GrainMap
  virtual_size: number
  /** where the output goes; nothing lies there yet */
  path: string
  threads: number
  grains: 'full' | 'structure'
}

export interface FastHooks {
  signal: AbortSignal
  onGrains(done: number): void
  spawned(id: ProcessIdentity): void
  log(stream: 'agent', text: string): void
}
