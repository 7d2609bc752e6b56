/** The terms of the image cache (docs/images.md). Sizes are bytes, times RFC 3339. */
import type { Template } from '../../config/index.ts'
import type { ProcessIdentity } from '../../process/index.ts'

export type ImageFormat = 'qcow2' | 'raw'

/** One image file of the cache: whole, checked, never written again. */
export interface CachedImage {
  name: string
  path: string
  format: ImageFormat
  /** of the file */
  size_bytes: number
  /** what a guest sees */
  virtual_size_bytes: number
  sha256: string
  /** the URL (without credentials and query) or the path that it came from */
  source?: string
  added_at: string
  used_at: string
  /** hard links beside the cache's own: disks of VMs, on whatever host */
  in_use: number
  /** what `get` gives under this name; false: the template has changed since */
  current: boolean
  /** put there by hand: nothing could fetch it again, so it is only removed by hand */
  added: boolean
}

export interface ImageProgress {
  bytes_per_second?: number
  /** what is being done or waited for, as a part of a sentence */
  doing: string
}

export interface ImageHooks {
  signal: AbortSignal
  /** bytes of the file */
  progress?(done: number, total: number | undefined, more: ImageProgress): void
  /** full sentences for the log of a job */
  log?(text: string): void
  /** MUST be told of each child group before it can do harm */
  spawned?(id: ProcessIdentity): void
}

export interface Cleaned {
  removed: CachedImage[]
  freed_bytes: number
  /** of what is left */
  total_bytes: number
}

export interface ImageStore {
  readonly dir: string
  /** All images, by name, the current one of a name first. Repairs lost records where it may write. */
  list(): Promise<CachedImage[]>
  /**
   * The image of a template or of an added name; fetched when it is not there.
   * @param o refresh: ask the source whether it has changed, too
   * @throws {VmError} image-not-found, image-download, image-checksum, image-invalid, storage; the signal's reason
   */
  get(name: string, o: ImageHooks & { refresh?: boolean }): Promise<CachedImage>
  /**
   * Puts an image beside the disks of a VM so that the VM depends on no name of the cache: a hard link, which is also what keeps the
   * image in the cache; else a clone, else a copy. A target that exists and holds that image is left as it is.
   * @throws {VmError} vm-conflict when the target is something else and `replace` is not given; storage; image-not-found (transient)
   * when the image was removed from the cache meanwhile
   */
  link(image: CachedImage, target: string, o: ImageHooks & { replace?: boolean }): Promise<'link' | 'clone' | 'copy'>
  /** Takes an image in from a file or a URL. @throws as `get` */
  add(name: string, source: string, o: ImageHooks & { checksum?: string; format?: ImageFormat }): Promise<CachedImage>
  /**
   * Removes all images of a name, or the one that `name@<beginning of its sha256>` means: all or none.
   * @param o vm_dirs: folders in which to look for the VMs that are named when an image is in use
   * @throws {VmError} image-not-found, vm-conflict when one is in use
   */
  remove(name: string, o?: { vm_dirs?: readonly string[] }): Promise<CachedImage[]>
  /** Removes what is over age or size, least recently used first, and what interrupted downloads left; never what a VM uses. */
  clean(): Promise<Cleaned>
}

/** Getters are read anew each time, but for `dir`: a reload of the configuration may change what they give. */
export interface ImagesOptions {
  dir: string
  templates: Readonly<Record<string, Template>>
  /** bytes; 0: no limit */
  max_bytes: number
  /** ms since it was last used; 0: for ever */
  max_age: number
  log?: {
    info(event: string, fields?: Record<string, unknown>): void
    warn(event: string, fields?: Record<string, unknown>): void
  }
  /** bytes that stay free on the filesystem of the cache; default 0 */
  reserve_bytes?: number
  /** largest virtual size, bytes; default 64 TiB */
  max_virtual_size?: number
  /** a download that brings not one byte in so many ms is broken off, and tried again; default 60 000 */
  no_progress_ms?: number
  /** between two tries, doubled each time; default 1000 ms */
  retry_ms?: number
  /** when the lock of a process that was killed counts as abandoned; default 15 000 ms, at least 2000 */
  stale_ms?: number
}
