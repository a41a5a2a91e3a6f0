"""A page and a job service over the resumable job: upload or name a video, watch it go on, compare, download."""
